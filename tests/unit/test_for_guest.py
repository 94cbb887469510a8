"""What a guest's browser may see of a session."""

import json
from collections.abc import Sequence

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.evolve import fold
from tests.unit.samples import (
    ACTIVE,
    FINGERPRINT,
    IP,
    OPEN,
    REFUSED,
    REJECTED,
    SESSION,
    THROTTLED,
    TOKEN,
    USER_AGENT,
    lookup_failed,
    was_rejected,
)


@pytest.mark.parametrize("events", [ACTIVE, THROTTLED, REFUSED, REJECTED])
@pytest.mark.parametrize("token", [False, True])
def test_the_answer_for_a_guest_is_json_without_personal_data(events: Sequence[e.Event], token: bool) -> None:
    text = json.dumps(fold(SESSION, events).for_guest(token=token))
    assert not any(secret in text for secret in (IP, USER_AGENT, FINGERPRINT))
    assert (TOKEN in text) is (token and events is ACTIVE)


def test_the_answer_for_a_guest_has_id_status_and_retry_time() -> None:
    session = fold(SESSION, THROTTLED)
    assert session.retry_at is not None
    assert session.for_guest() == {
        "id": str(SESSION),
        "status": "throttled",
        "retryAt": f"{session.retry_at:%Y-%m-%dT%H:%M:%S.%fZ}",
    }
    assert fold(SESSION, ACTIVE).for_guest(token=True) == {
        "id": str(SESSION),
        "status": "active",
        "retryAt": None,
        "token": TOKEN,
    }


def test_a_settled_session_has_no_retry_time() -> None:
    session = fold(SESSION, (*OPEN, lookup_failed(), was_rejected()))
    assert session.retry_at is not None
    assert session.for_guest()["retryAt"] is None
