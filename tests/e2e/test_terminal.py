"""What guests and servers chose cannot change what a terminal shows."""

import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from uuid import UUID

import pytest
import pytest_asyncio
from msgspec.structs import replace

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.consent import Evidence
from guestledger.engine.domain.consent_terms import PrivacyNotice
from guestledger.engine.domain.session import WebhookNotice
from tests import logs, postgres
from tests.e2e import raw_log
from tests.e2e.command import Result, environment, run
from tests.e2e.test_shown_as_it_stands import AT

# Colours and clears the screen in 7 and 8 bits, rings, and turns the writing direction. Older ledgers and servers may have it.
HOSTILE = "x\x1b[31m\x9b2J\x07\x85\u202egnp\u2066\u2028y"
ESCAPED = "x\\u001b[31m\\u009b2J\\u0007\\u0085\\u202egnp\\u2066\\u2028y"
RAW = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
TERMINAL = {"COLUMNS": "400", "NO_COLOR": "1"}

COMMANDS = (
    "sessions",
    "sessions --json",
    "sessions --csv",
    "audit",
    "audit --json",
    "audit --csv",
    "metrics --by-day",
    "metrics --by-day --csv",
    "events --csv",
    "webhooks list",
    "webhooks list --json",
    "limits",
    "limits --json",
    "consumers",
    "consumers --json",
    "events --json",
    "why {id}",
    "consent {id}",
    "consent {id} --json",
    "why {id} --json",
    "replay {id}",
    "replay {id} --json",
    "replay {id} --step",
    "replay {id} --diff 0 9",
    "replay {hostile}",
    "limits --reset {hostile}",
    "consumers --forget {hostile}",
    "{hostile}",
)


class Hostile(NamedTuple):
    """A ledger of hostile texts, and its session."""

    env: dict[str, str]
    id: UUID


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hostile(runtime_server: str, migrated_template: str) -> AsyncIterator[Hostile]:
    consented, validated, attempted, created, _ = (replace(event, channel_id=HOSTILE) for event in logs.lifecycle(0))
    created = replace(created, session_id=HOSTILE)
    evidence = Evidence(record_version=1, notice=PrivacyNotice(id=HOSTILE))
    consented = replace(consented, consent=replace(consented.consent, notice=HOSTILE, evidence=evidence))
    given_up = e.WebhookAbandoned(
        notice=WebhookNotice.SESSION_STARTED,
        at=AT,
        channel_id=HOSTILE,
        attempts=1,
        cause=Cause.RECEIVER_GONE,
        status=410,
        detail=HOSTILE,
    )
    async with postgres.new_database(runtime_server, migrated_template) as url:
        id_ = await logs.write_events(url, (consented, validated, attempted, created, given_up), after=-1)
        limiter = "INSERT INTO limits (name, closed_at, closed_until, closed_by, failures, breaks) VALUES ($1, $2, $2, 'quota', 3, 0)"
        await raw_log.query(url, limiter, HOSTILE, AT)
        await raw_log.query(url, "INSERT INTO consumers (name, position) VALUES ($1, 1)", HOSTILE)
        yield Hostile(environment(url) | TERMINAL, id_)


@pytest.mark.parametrize("command", COMMANDS)
async def test_no_command_prints_a_control_character(command: str, hostile: Hostile):
    words = [word.format(id=hostile.id, hostile=HOSTILE) for word in command.split()]

    shown: Result = await run(*words, env=hostile.env)

    assert not RAW.search(shown.text.replace("\r\n", "\n")), shown.text
    assert not RAW.search(shown.err), shown.err
    if "{" not in command and command != "audit":  # the audit table continues the text below
        assert ESCAPED in re.sub(r"\s", "", shown.text)
    if "--json" in command and not command.startswith("why"):  # which shows none of these texts
        assert HOSTILE in "".join(map(str, (value for row in shown.out for value in texts_in(row))))


def texts_in(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts_in(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts_in(item)]
    return [value] if isinstance(value, str) else []
