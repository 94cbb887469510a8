"""A 2xx of which a part cannot be read: what can be read is recorded, and no second session is made."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Adoption, FailureKind, Verdict
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from tests.integration.conftest import AT_ONCE
from tests.keys import revealed
from tests.scripted import CUT, created, reply, scripted_peer
from tests.unit.samples import request

LONG = "Content-Security-Policy: " + "x" * 9_000
BY_HAND = {"decided_by": "ops", "reason": "checked"}


async def event_of(ledger: Ledger, session: Session, kind: type[e.Event]) -> Any:
    [found] = [one.event for one in await ledger.history(session.id) if isinstance(one.event, kind)]
    return found


@pytest.mark.parametrize(
    "given",
    [
        "2099-05-20T15:22:00",
        "9999-12-31T23:59:59.999999Z",
        "9999-12-31T23:59:59.9999999Z",
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        253_402_300_799_000,
        None,
    ],
)
async def test_a_bad_expiry_is_unknown_and_the_policys_lifetime_counts(new_ledger: Any, given: Any) -> None:
    policy = Policy(creation=AT_ONCE.creation, limiter=AT_ONCE.limiter, assumed_lifetime_ms=1_800_000)
    async with (
        scripted_peer(sessions=lambda number: reply(201, created(number, expiresAt=given))) as peer,
        new_ledger(policy=policy, **peer.settings) as ledger,
    ):
        session = await ledger.open_session(request())

        assert (session.status, session.session_id, peer.counts["sessions"]) == (Status.ACTIVE, "sess_1", 1)
        made = await event_of(ledger, session, e.SessionCreated)
        assert made.expires_at == made.at + timedelta(seconds=1_800)
        assert list(made.unread) == ["expires_at"]
        explanation = await ledger.why(session.id)
        assert [step.moves_at for step in explanation.steps] == [made.expires_at]
        assert await revealed(ledger, session.id) == session


@pytest.mark.parametrize(
    "answer",
    [
        lambda number: reply(201, created(number, expiresAt=4_082_973_720_000)),
        lambda number: reply(201, b"\xef\xbb\xbf" + msgspec.json.encode(created(number))),
        lambda number: reply(201, created(number), LONG),
        lambda number: reply(201, created(number, status=None)),
    ],
    ids=["Unix time", "byte order mark", "long header", "no status"],
)
async def test_other_oddities_discard_nothing(new_ledger: Any, answer: Any) -> None:
    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        session = await ledger.open_session(request())
        assert (session.status, session.session_id, peer.counts["sessions"]) == (Status.ACTIVE, "sess_1", 1)


@pytest.mark.parametrize(
    ("answer", "session_id"),
    [
        (lambda number: reply(201, created(number, token=None)), "sess_1"),
        (lambda number: reply(201, created(number, sessionId=None)), None),
        (lambda _: reply(200, b"<html>"), None),
        (lambda _: reply(204), None),
        (lambda number: reply(201, created(number), "garbage"), None),
    ],
    ids=["no token", "no id", "no JSON", "no body", "malformed header"],
)
async def test_an_attempt_with_an_unreadable_success_is_not_repeated(
    new_ledger: Any, answer: Any, session_id: str | None
) -> None:
    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()

        session = await ledger.session(session.id)
        assert (session.status, session.cause) == (Status.PARKED, Cause.UNREADABLE_ANSWER)
        assert peer.counts["sessions"] == 1
        failed = await event_of(ledger, session, e.CreationFailed)
        assert failed.session_id == session_id
        assert (session_id or "") in (session.detail or "")


async def test_a_session_without_a_token_can_be_adopted_or_retried(new_ledger: Any) -> None:
    def answer(number: int) -> bytes:
        return reply(201, created(number, **({"token": None} if number <= 2 else {})))

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        adopted, retried = await ledger.open_session(request()), await ledger.open_session(request())
        expires_at = datetime(2099, 1, 1, tzinfo=UTC)
        found = Adoption(session_id="sess_1", expires_at=expires_at, guest_token="gt_found")
        assert (await ledger.resolve(adopted.id, found, **BY_HAND)).status is Status.ACTIVE
        await ledger.resolve(retried.id, Verdict.RETRY, **BY_HAND)
        await ledger.scheduler.run_until_idle()
        assert (await ledger.session(retried.id)).session_id == "sess_3"


async def test_an_answer_that_is_cut_off_is_retried(new_ledger: Any) -> None:
    def answer(number: int) -> bytes:
        return reply(201, created(number))[:-5] + CUT if number == 1 else reply(201, created(number))

    async with scripted_peer(sessions=answer) as peer, new_ledger(**peer.settings) as ledger:
        session = await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()
        failed = await event_of(ledger, session, e.CreationFailed)
        assert (failed.kind, failed.cause, failed.status) == (FailureKind.IN_DOUBT, Cause.CONNECTION_LOST, 201)
        assert (await ledger.session(session.id)).session_id == "sess_2"


async def test_a_look_up_of_another_shape_is_not_repeated(new_ledger: Any) -> None:
    async with (
        scripted_peer(channels=lambda _: reply(200, {"state": "active"})) as peer,
        new_ledger(**peer.settings) as ledger,
    ):
        session = await ledger.open_session(request())
        assert (session.status, session.cause) == (Status.REJECTED, Cause.UNREADABLE_ANSWER)
        assert session.detail == "status: absent"
        assert peer.counts["channels"] == 1


@pytest.mark.parametrize(
    "answer",
    [reply(200, b"", LONG), reply(200, b"\x06", "Content-Encoding: br"), reply(202, b"", "garbage"), reply(204, b"x")],
    ids=["long header", "unknown encoding", "malformed header", "body of a 204"],
)
async def test_a_receivers_2xx_is_delivered_once(new_ledger: Any, answer: bytes) -> None:
    async with (
        scripted_peer(hook=lambda _: answer) as peer,
        new_ledger(**peer.settings, webhook_url=f"{peer.url}/hook") as ledger,
    ):
        session = await ledger.open_session(request())
        await ledger.scheduler.run_until_idle()
        await event_of(ledger, session, e.WebhookSynced)
        assert peer.counts["hook"] == 1
