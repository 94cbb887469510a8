"""The table of legal transitions equals what sample histories show."""

from itertools import pairwise

from guestledger.engine.domain.events import EVENT_TYPES
from guestledger.engine.domain.evolve import evolve
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.domain.session import Session, Status
from tests.transitions import LEGAL, STAYS, is_legal
from tests.unit.samples import (
    ABANDONED,
    ATTEMPTING,
    EXPIRED,
    FAILED,
    IN_DOUBT,
    ONE_OF_EACH,
    OPEN,
    PARKED,
    REFUSED,
    REJECTED,
    SESSION,
    THROTTLED,
    abandonment_decided,
    at,
    clock_set_back,
    doubt_lifted,
    has_failed,
    lookup_failed,
    retry_decided,
    token_found,
    was_abandoned,
    was_adopted,
    was_attempted,
    was_created,
    was_duplicated,
    was_erased,
    was_parked,
    was_synced,
    was_throttled,
)

HISTORIES = [
    REFUSED,
    REJECTED,
    (*REJECTED, was_duplicated()),
    (*REFUSED, was_erased()),
    (*OPEN, lookup_failed(), was_abandoned()),
    (*ATTEMPTING, has_failed(kind=FailureKind.FINAL)),
    (*FAILED, was_attempted(2)),
    (*FAILED, was_created()),
    (*THROTTLED, was_attempted(2)),
    (*THROTTLED, was_created()),
    (*THROTTLED, was_abandoned()),
    (*IN_DOUBT, was_attempted(2)),
    (*IN_DOUBT, was_created()),
    (*IN_DOUBT, doubt_lifted(retry_at=at(1))),
    (*IN_DOUBT, was_attempted(2), doubt_lifted(), has_failed(2, FailureKind.IN_DOUBT)),
    (*IN_DOUBT, was_attempted(2), was_throttled(2), doubt_lifted()),
    (*IN_DOUBT, was_attempted(2), has_failed(2, FailureKind.IN_DOUBT), doubt_lifted(1), was_parked(2)),
    (*PARKED, retry_decided(), was_attempted(2), has_failed(2, FailureKind.IN_DOUBT), was_parked(2), doubt_lifted()),
    (*PARKED, doubt_lifted(retry_at=at(1))),
    (*PARKED, abandonment_decided()),
    (*PARKED, was_adopted()),
    (*PARKED, was_adopted(guest_token=None), token_found()),
    (*PARKED, was_created()),
    (*EXPIRED, was_synced()),
    (*ATTEMPTING, clock_set_back()),
    (*EXPIRED, clock_set_back()),
    (*ATTEMPTING, was_created(), was_synced()),
    (*ABANDONED, was_duplicated()),
]


def _seen() -> set[tuple[Status, Status]]:
    seen = set()
    for history in HISTORIES:
        states = [Session(id=SESSION)]
        for event in history:
            states.append(evolve(states[-1], event))
        seen |= {(before.status, after.status) for before, after in pairwise(states)}
    return seen


def test_every_legal_transition_occurs_in_a_sample_history() -> None:
    assert {pair for pair in _seen() if pair[0] is not pair[1]} == LEGAL
    assert {before for before, after in _seen() if before is after} == STAYS


def test_only_transitions_in_the_table_are_legal() -> None:
    assert is_legal(Status.NEW, Status.PENDING)
    assert is_legal(Status.ACTIVE, Status.ACTIVE)
    assert not is_legal(Status.NEW, Status.ACTIVE)
    assert not is_legal(Status.NEW, Status.NEW)


def test_no_transition_leads_to_new_or_out_of_an_end() -> None:
    ends = {Status.EXPIRED, Status.REFUSED, Status.REJECTED, Status.ABANDONED}
    assert not {pair for pair in LEGAL if pair[0] in ends or pair[1] is Status.NEW}
    assert {after for _, after in LEGAL} == set(Status) - {Status.NEW}


def test_the_samples_contain_one_of_each_event() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(EVENT_TYPES.values())
