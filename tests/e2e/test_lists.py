"""Lists as a person reads them: the newest first, and no more than is wanted."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests import logs, postgres
from tests.e2e import raw_log
from tests.e2e.command import Result, assert_one_line, environment, run

ROWS = 1_200
# A session an hour, the newest an hour ago.
AUDIT_ROWS = (
    "INSERT INTO audit_log (id, opened_at, timestamp, channel_id, consent_recorded, gdpr_compliant, compliance_status, "
    "refused_flags, webhook) SELECT gen_random_uuid(), at, at, 'ch_' || n, true, true, 'pending', '{}', 'not_owed' "
    f"FROM generate_series(1, {ROWS}) AS n, LATERAL (SELECT now() - n * interval '1 hour' AS at) AS made"
)
SESSION_ROWS = (
    "INSERT INTO sessions (id, channel_id, status, version, opened_at, updated_at, attempts, in_doubt, webhook_owed) "
    "SELECT id, channel_id, 'pending', 1, opened_at, opened_at, 0, '{}', false FROM audit_log"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def env(runtime_server: str, migrated_template: str) -> AsyncIterator[dict[str, str]]:
    async with postgres.new_database(runtime_server, migrated_template) as url:
        await raw_log.query(url, AUDIT_ROWS)
        await raw_log.query(url, SESSION_ROWS)
        yield environment(url)


def channels(result: Result) -> list[str]:
    assert (result.code, result.err) == (0, "")
    return [row["channelId"] for row in result.out]


@pytest.mark.parametrize("command", ["sessions", "audit"])
async def test_more_rows_than_a_table_has_are_listed_newest_first(command: str, env: dict[str, str]):
    table, more, json = await asyncio.gather(
        run(command, env=env), run(command, "--limit", "1100", env=env), run(command, "--json", env=env)
    )

    assert channels(json) == [f"ch_{number}" for number in range(1, ROWS + 1)]
    for result, shown in ((table, 1_000), (more, 1_100)):
        assert (result.code, result.err) == (0, "")
        _, first, *_, last, caption = result.text.splitlines()
        assert len(result.text.splitlines()) == shown + 2
        assert "ch_1 " in first
        assert f"ch_{shown} " in last
        assert caption.startswith(f"the newest {shown}: ")


@pytest.mark.parametrize("command", ["sessions", "audit"])
async def test_rows_are_selected_by_limit_and_relative_times(command: str, env: dict[str, str]):
    limited, since, both, table = await asyncio.gather(
        run(command, "--json", "--limit", "3", env=env),
        run(command, "--json", "--since", "2 days ago", env=env),
        run(command, "--json", "--since", "1w", "--until", "150h", "--limit", "2", env=env),
        run(command, "--limit", "60", env=env),
    )

    assert channels(limited) == ["ch_1", "ch_2", "ch_3"]
    assert channels(since) == [f"ch_{number}" for number in range(1, 48)]
    assert channels(both) == ["ch_150", "ch_151"]
    assert table.text.count(" h ago") == 47
    assert table.text.count("2 days ago") == 60 - 47


async def test_events_end_after_the_limit(database_url: str):
    await logs.write(database_url, 50)
    env = environment(database_url)

    first, followed = await asyncio.gather(
        run("events", "--json", "--limit", "7", env=env),
        run("events", "--json", "--limit", "7", "--follow", "--after", "20", env=env),
    )

    assert [row["position"] for row in first.out] == list(range(7))
    assert [row["position"] for row in followed.out] == list(range(21, 28))
    assert (first.code, followed.code) == (0, 0)


async def test_a_span_that_is_none_is_refused(env: dict[str, str]):
    for text in ("2 moons ago", "99999999999 weeks ago", "-1 day"):
        assert_one_line(await run("sessions", "--since", text, env=env), "--since")
