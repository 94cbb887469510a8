"""How long personal data is kept: the token until it expires, contact data as the policy and legal holds say."""

from datetime import timedelta

import pytest

from guestledger.engine.domain import events as e
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from tests.unit.given import given
from tests.unit.samples import (
    ABANDONED,
    ACTIVE,
    ATTEMPTING,
    EXPIRED,
    EXPIRY,
    IN_DOUBT,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    START,
    THROTTLED,
    TOKEN,
    answer,
    at,
    contact_erased,
    created,
    erase_contact,
    has_expired,
    hold,
    purge,
    redeliver,
    redelivery_requested,
    release,
    token_found,
    was_adopted,
    was_created,
    was_held,
    was_purged,
    was_released,
    was_synced,
    webhook_abandoned,
    webhook_failed,
)

MONTH = Policy(retention_days=30)
DAYS_30 = timedelta(days=30)
OVER = (*EXPIRED, was_purged(), was_synced())
ENDLESS = (*ATTEMPTING, was_created(expires_at=None), was_synced())
ERASED = (*OVER, contact_erased())


def ended(history: tuple[e.Event, ...]) -> Session:
    state = given(*history).state
    assert state.is_over is (state.ended_at is not None)
    return state


# The guest token


def test_an_expired_token_is_purged() -> None:
    assert given(*ACTIVE).when(purge(EXPIRY)).events == ()
    assert given(*EXPIRED).due()[StepName.PURGE_TOKEN] == EXPIRY
    then = given(*EXPIRED).when(purge(EXPIRY)).then(was_purged())
    assert (then.state.guest_token, then.state.token_purged_at) == (None, EXPIRY)
    assert StepName.PURGE_TOKEN not in then.due()


def test_a_session_without_a_token_has_none_to_purge() -> None:
    history = (*PARKED, was_adopted(guest_token=None), has_expired())
    assert StepName.PURGE_TOKEN not in given(*history).due()
    given(*history).when(purge(EXPIRY)).then_nothing()


def test_a_late_answer_brings_no_token_after_the_purge() -> None:
    given(*EXPIRED, was_purged()).when(answer(created())).then_nothing()
    endless = (*ENDLESS, was_purged())
    given(*endless).when(answer(created(expires_at=None))).then_nothing()
    given(*endless).when(answer(created(session_id="sess_other"))).then_kinds(e.DuplicateCreated)


def test_the_event_that_purges_a_token_erases_it_from_the_stream() -> None:
    assert e.TokenPurged.erases == {e.SessionCreated.purpose} == {token_found().purpose}
    assert e.ContactErased.erases == {e.ConsentRecorded.purpose}


# The end of a session


@pytest.mark.parametrize("history", [REFUSED, REJECTED, ABANDONED], ids=["refused", "rejected", "abandoned"])
def test_a_session_that_was_never_active_is_over_with_its_outcome(history: tuple[e.Event, ...]) -> None:
    assert ended(history).ended_at == START


@pytest.mark.parametrize(
    "history", [(), OPEN, ATTEMPTING, THROTTLED, IN_DOUBT, PARKED, ACTIVE, (*ACTIVE, was_synced())]
)
def test_a_session_with_something_ahead_is_not_over(history: tuple[e.Event, ...]) -> None:
    assert ended(history).ended_at is None


@pytest.mark.parametrize("settled", [was_synced(at=at(9_000)), webhook_abandoned(at=at(9_000))])
def test_an_expired_session_is_over_once_its_webhook_is_settled(settled: e.Event) -> None:
    assert ended(EXPIRED).ended_at is None
    assert ended((*EXPIRED, webhook_failed())).ended_at is None
    assert ended((*EXPIRED, settled)).ended_at == at(9_000)
    assert ended((*ACTIVE, was_synced(), has_expired())).ended_at == EXPIRY


def test_a_token_without_an_expiry_time_does_not_keep_its_session_open() -> None:
    assert ended((*ATTEMPTING, was_created(expires_at=None))).ended_at is None
    assert ended(ENDLESS).ended_at == START


def test_later_events_do_not_move_the_end_but_a_redelivery_does() -> None:
    assert ended((*OVER, was_held(at=at(10_000)))).ended_at == START
    assert ended((*OVER, redelivery_requested())).ended_at is None
    assert ended((*OVER, redelivery_requested(), was_synced(at=at(10_000)))).ended_at == at(10_000)


# Retention


def test_without_a_policy_contact_data_is_kept() -> None:
    assert given(*OVER).due() == {}
    given(*OVER).when(erase_contact(START + timedelta(days=36_500))).then_nothing()


def test_contact_data_is_erased_when_the_retention_is_over() -> None:
    ended_at = given(*OVER).state.ended_at
    assert ended_at is not None
    assert given(*OVER).due(MONTH) == {StepName.ERASE_CONTACT: ended_at + DAYS_30}
    given(*OVER).when(erase_contact(ended_at + DAYS_30 - timedelta(milliseconds=1)), MONTH).then_nothing()
    then = given(*OVER).when(erase_contact(ended_at + DAYS_30), MONTH)
    then.then(contact_erased(at=ended_at + DAYS_30, ended_at=ended_at))
    assert then.state.contact_erased_at == ended_at + DAYS_30
    assert then.due(MONTH) == {}


def test_a_changed_policy_applies_to_sessions_that_ended_before() -> None:
    assert given(*OVER).due(Policy(retention_days=0)) == {StepName.ERASE_CONTACT: START}
    assert given(*OVER).due(Policy(retention_days=90)) == {StepName.ERASE_CONTACT: START + timedelta(days=90)}


def test_what_a_session_owes_comes_before_the_erasure() -> None:
    for history in (EXPIRED, (*EXPIRED, webhook_failed()), (*OVER, redelivery_requested()), PARKED, IN_DOUBT):
        assert StepName.ERASE_CONTACT not in given(*history).due(MONTH)
        given(*history).when(erase_contact(START + timedelta(days=999)), MONTH).then_nothing()


def test_a_token_that_does_not_expire_goes_with_the_contact_data() -> None:
    assert given(*ENDLESS).due(MONTH) == {StepName.ERASE_CONTACT: START + DAYS_30}
    then = given(*ENDLESS).when(erase_contact(START + DAYS_30), MONTH)
    then.then_kinds(e.TokenPurged, e.ContactErased)
    assert then.state.guest_token is None


def test_no_notice_is_sent_again_without_contact_data() -> None:
    given(*OVER).when(redeliver()).then_kinds(e.WebhookRedeliveryRequested)
    given(*ERASED).when(redeliver()).then_nothing()


# Legal holds


def test_a_legal_hold_stops_the_retention_until_it_is_released() -> None:
    held = given(*OVER).when(hold(at(60)), MONTH).then(was_held(at=at(60)))
    assert (held.state.held, held.state.held_since) == (True, at(60))
    assert held.due(MONTH) == {}
    given(*held.before, *held.events).when(erase_contact(START + timedelta(days=999)), MONTH).then_nothing()
    free = given(*OVER, was_held()).when(release(at(90)), MONTH).then(was_released(at=at(90)))
    assert not free.state.held
    assert free.due(MONTH) == {StepName.ERASE_CONTACT: START + DAYS_30}


def test_a_legal_hold_is_placed_once_and_released_once() -> None:
    given(*OVER, was_held()).when(hold()).then_nothing()
    given(*OVER).when(release()).then_nothing()
    given(*OPEN).when(hold()).then(was_held())


def test_erased_contact_data_cannot_be_held() -> None:
    given(*ERASED).when(hold()).then_nothing()


def test_a_legal_hold_does_not_keep_an_expired_token() -> None:
    assert given(*EXPIRED, was_held()).due(MONTH)[StepName.PURGE_TOKEN] == EXPIRY
    assert given(*ACTIVE, was_held()).state.guest_token == TOKEN
