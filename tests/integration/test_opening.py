"""`guestledger open`, in process: lines that an outage cut off, or whose session the ledger cannot read."""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from io import BytesIO
from typing import Any

import msgspec
import pytest

from guestledger.adapters.cli.batch import Answer, OpeningBatch
from guestledger.adapters.cli.lines import numbered_lines
from guestledger.adapters.database import open_archive
from guestledger.adapters.settings import Settings
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.request import GuestRequest, parse_request
from guestledger.engine.domain.session import Session
from guestledger.engine.ledger import Ledger
from tests import logs
from tests.e2e import guests, raw_log
from tests.integration.test_unknown_events import newer_release_writes
from tests.postgres import as_administrator

PERSON = guests.guest(1)


async def opened(ledger: Ledger, request: guests.Request) -> Session:
    return await ledger.open_session(parse_request(msgspec.json.encode(request)))


async def answers_of(opening: OpeningBatch, requests: Sequence[guests.Request]) -> list[Answer]:
    answers: list[Answer] = []

    async def keep(answer: Answer) -> None:
        answers.append(answer)

    await opening.run(numbered_lines(BytesIO(guests.as_lines(requests)).read), keep)
    return answers


async def test_a_line_is_repeated_after_an_outage_if_it_has_a_key(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [PERSON, PERSON | {"idempotencyKey": "a"}]
    met: list[GuestRequest] = []

    async def open_session(request: GuestRequest) -> Session:
        again = request in met
        met.append(request)
        session = await type(ledger).open_session(ledger, request)
        if not again:
            raise ServiceUnreachable("database", Cause.CONNECTION_LOST)
        return session

    monkeypatch.setattr(ledger, "open_session", open_session)
    opening = OpeningBatch(ledger, concurrency=2, wait=False)
    without, with_key = await answers_of(opening, requests)

    assert "may not have been accepted" in without["error"]["reason"]
    assert with_key["status"] == "active"
    assert [request.idempotency_key for request in met].count(None) == 1
    assert len(await raw_log.accepted(database_url)) == 2


async def test_an_unreadable_session_of_a_key_fails_only_its_own_line(
    database_url: str, ledger: Ledger, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [PERSON | {"idempotencyKey": key} for key in ("detached", "newer", "fresh")]
    monkeypatch.setattr(ledger._adapters.clock, "new_id", lambda: logs.new_stream(datetime(2024, 3, 31, tzinfo=UTC)))
    old = await opened(ledger, requests[0])
    monkeypatch.undo()
    newer = await opened(ledger, requests[1])
    await ledger.projections.catch_up()
    await sql("DELETE FROM due_steps")
    async with open_archive(Settings(migration_url=as_administrator(database_url), allow_owner=True)) as archive:
        await archive.settle()
        await archive.detach(date(2024, 3, 1))
    await newer_release_writes(database_url, newer.id)
    opening = OpeningBatch(ledger, concurrency=1, wait=True)
    answers = await answers_of(opening, requests)

    assert [answer["line"] for answer in answers] == [1, 2, 3]
    assert f"session {old.id} is in partition 2024-03, which is detached" in answers[0]["error"]["reason"]
    assert "upgrade guestledger here" in answers[1]["error"]["reason"]
    assert answers[2]["status"] == "active"
    assert (opening.short, opening.trouble) == (2, None)
