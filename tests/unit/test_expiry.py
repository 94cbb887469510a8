"""The expiry of guest tokens."""

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.session import Status
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    EXPIRY,
    OPEN,
    REFUSED,
    REJECTED,
    at,
    expire,
    has_expired,
    was_created,
)


@pytest.mark.parametrize("seconds", [0, 1, 3_599, 3_599.999999])
def test_a_token_does_not_expire_before_its_time(seconds: float) -> None:
    given(*ACTIVE).when(expire(at(seconds))).then_nothing()


def test_a_token_expires_at_its_time() -> None:
    then = given(*ACTIVE).when(expire(EXPIRY))
    then.then(has_expired(at=EXPIRY, expires_at=EXPIRY, noticed_late_ms=0))
    assert then.state.status is Status.EXPIRED


def test_an_expiry_records_how_late_it_was_noticed() -> None:
    event = given(*ACTIVE).when(expire(at(3_600 + 90.25))).then_one(e.TokenExpired)
    assert (event.expires_at, event.noticed_late_ms) == (EXPIRY, 90_250)


def test_a_token_expires_once() -> None:
    given(*EXPIRED).when(expire(at(9_999))).then_nothing()


def test_a_token_without_an_expiry_time_never_expires() -> None:
    given(*ATTEMPTING, was_created(expires_at=None)).when(expire(at(9_999_999))).then_nothing()


@pytest.mark.parametrize(
    "history",
    [(), OPEN, ATTEMPTING, REFUSED, REJECTED, ABANDONED],
    ids=["new", "pending", "attempting", "refused", "rejected", "abandoned"],
)
def test_only_an_active_session_expires(history: tuple[e.Event, ...]) -> None:
    given(*history).when(expire(at(9_999))).then_nothing()


def test_an_expired_session_keeps_its_session_id_and_expiry() -> None:
    state = given(*EXPIRED).state
    assert (state.session_id, state.expires_at) == ("sess_9d4e8f1a", EXPIRY)
