"""What guests and servers chose is shown as it stands: no text of theirs is markup, and in 80 columns nothing of it is cut."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

import pytest
import pytest_asyncio
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.session import WebhookNotice
from tests import logs, postgres
from tests.e2e import raw_log
from tests.e2e.command import environment, run

# A closing tag that nothing opened ends rich with an error, an opening one vanishes, and the last is a picture.
CHANNEL = "ch_[/x][consent]:key:" + "c" * 60
MESSAGE = "CXone said [/x] [red]no[consent] :key: " + "m" * 90
LIMITER = "chat-api.customer-engagement.example.com:443 sessions [/x] :key:"
CONSUMER = "warehouse [/x] :key: " + "w" * 80
BROKEN = "stopped at [/x] :key: " + "b" * 90
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
AT = datetime(2025, 5, 20, tzinfo=UTC)


class Awkward(NamedTuple):
    """A ledger of awkward texts: how to reach it, and its sessions."""

    env: dict[str, str]
    failed: UUID
    given_up: UUID

    async def lines(self, *arguments: str, columns: int | None = 80) -> list[str]:
        """What a command prints in a terminal of so many columns; `None`: into a pipe."""
        terminal = {"COLUMNS": str(columns), "TTY_COMPATIBLE": "1"} if columns else {}
        result = await run(*arguments, env=self.env | terminal)
        assert result.code == 0, result.err
        return ESCAPES.sub("", result.text).splitlines()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def awkward(runtime_server: str, migrated_template: str) -> AsyncIterator[Awkward]:
    consented, validated, attempted, created, _ = (replace(event, channel_id=CHANNEL) for event in logs.lifecycle(0))
    failed = e.CreationFailed(
        at=AT,
        channel_id=CHANNEL,
        attempt=1,
        kind=FailureKind.FINAL,
        cause=Cause.REJECTED,
        status=400,
        detail=MESSAGE,
        wait=None,
        retry_at=None,
    )
    given_up = e.WebhookAbandoned(
        notice=WebhookNotice.SESSION_STARTED,
        at=AT,
        channel_id=CHANNEL,
        attempts=1,
        cause=Cause.RECEIVER_GONE,
        status=410,
        detail=MESSAGE,
    )
    async with postgres.new_database(runtime_server, migrated_template) as url:
        failing = await logs.write_events(url, (consented, validated, attempted, failed), after=-1)
        active = await logs.write_events(url, (consented, validated, attempted, created, given_up), after=3)
        limiter = "INSERT INTO limits (name, closed_at, closed_until, closed_by, failures, breaks) VALUES ($1, now(), now() + interval '1 day', 'quota', 3, 0)"
        await raw_log.query(url, limiter, LIMITER)
        await raw_log.query(url, "INSERT INTO consumers (name, position) VALUES ($1, 1)", CONSUMER)
        yield Awkward(environment(url), failing, active)


def letters(lines: list[str]) -> str:
    """All that is printed, without what comes between the parts of a text that goes on in a next line."""
    return "".join("".join(lines).split())


@pytest.mark.parametrize("columns", [80, None], ids=["terminal", "pipe"])
@pytest.mark.parametrize("command", ["sessions", "audit", "metrics", "webhooks list", "limits", "consumers"])
async def test_texts_of_guests_and_servers_are_not_markup(command, columns, awkward: Awkward):
    printed = letters(await awkward.lines(*command.split(), columns=columns))

    assert printed.count("[/x]") == printed.count(":key:")
    assert ("[/x]" in printed) == (command != "metrics" and (command, columns) != ("audit", 80))
    assert ("[/x][consent]:key:" in printed) >= (command == "audit" and columns is None)


async def test_other_commands_print_ids_and_digests_unchanged(awkward: Awkward):
    why, replay, verified = await asyncio.gather(
        awkward.lines("why", str(awkward.failed)),
        awkward.lines("replay", str(awkward.failed)),
        awkward.lines("projections", "verify", "sessions"),
    )

    assert str(awkward.failed) in why[0]
    assert str(awkward.failed) in replay[0]
    assert len(verified) == 1, "a digest stays in one piece, to be compared"


async def test_80_columns_cut_nothing_and_keep_names_in_one_piece(awkward: Awkward):
    dead_letters, limiters, consumers, sessions = await asyncio.gather(
        awkward.lines("webhooks", "list"),
        awkward.lines("limits"),
        awkward.lines("consumers"),
        awkward.lines("sessions"),
    )

    assert dead_letters[1].startswith(f"{awkward.given_up} ")
    assert letters([MESSAGE]) in letters([line[52:] for line in dead_letters])
    assert limiters[0] == LIMITER
    assert "  because of exhausted quota" in limiters
    assert letters(consumers).count("w") >= CONSUMER.count("w")
    assert letters(sessions).count("c") >= 2 * CHANNEL.count("c")
    assert letters(sessions).count("m") >= MESSAGE.count("m")
    for stream_id in (awkward.failed, awkward.given_up):
        assert str(stream_id) in "".join(sessions)
    assert max(map(len, (*dead_letters, *consumers, *sessions))) <= 80


async def test_stopped_projection_shows_its_whole_error(awkward: Awkward):
    await awkward.lines("sessions")  # it has a checkpoint then
    url, stop = awkward.env["GUESTLEDGER_DATABASE_URL"], "UPDATE checkpoints SET error = $1, stopped_at = now()"
    await raw_log.query(url, stop, BROKEN)

    lines = await awkward.lines("projections", "list")

    assert letters(lines).count("b") >= 3 * BROKEN.count("b")
    assert letters(lines).count("[/x]:key:") == 3
    assert max(map(len, lines)) <= 80
