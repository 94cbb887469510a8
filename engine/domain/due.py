"""The steps that a session still needs, and when each is due."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import assert_never

import msgspec

from guestledger.engine.domain.policy import Policy, deadline_of
from guestledger.engine.domain.retention import erasure_due_at, token_outlived_at
from guestledger.engine.domain.session import Session, Status


class StepName(StrEnum):
    """Stored in due steps. Each names its handler's module in `engine/worker/steps/`."""

    VALIDATE_CHANNEL = "validate_channel"
    CREATE_SESSION = "create_session"
    SETTLE_ATTEMPT = "settle_attempt"
    ENFORCE_DEADLINE = "enforce_deadline"
    DELIVER_WEBHOOK = "deliver_webhook"
    EXPIRE_TOKEN = "expire_token"  # noqa: S105 - a name, not a token
    PURGE_TOKEN = "purge_token"  # noqa: S105 - a name, not a token
    ERASE_CONTACT = "erase_contact"

    __hash__ = str.__hash__  # an enum's own is slow, and these are keys


PROVIDER_STEPS = frozenset({StepName.VALIDATE_CHANNEL, StepName.CREATE_SESSION})
"""The steps that send requests to the provider."""

LIMITED_STEPS = PROVIDER_STEPS | {StepName.DELIVER_WEBHOOK}
"""The steps that send requests: each passes a limiter."""


class DueStep(msgspec.Struct, frozen=True, gc=False):
    """A step, and the time (UTC) before which it must not run."""

    step: StepName
    due_at: datetime


def due_steps(state: Session, policy: Policy) -> tuple[DueStep, ...]:
    """Everything the session still needs. Empty: nothing, or nothing before a person decides."""
    return (*_towards_the_end(state, policy), *_after_the_end(state, policy))


def _after_the_end(state: Session, policy: Policy) -> Iterator[DueStep]:
    if (outlived_at := token_outlived_at(state)) is not None:
        yield DueStep(StepName.PURGE_TOKEN, outlived_at)
    if (erased_at := erasure_due_at(state, policy)) is not None:
        yield DueStep(StepName.ERASE_CONTACT, erased_at)


def _towards_the_end(state: Session, policy: Policy) -> tuple[DueStep, ...]:
    match state.status:
        case Status.PENDING | Status.THROTTLED | Status.IN_DOUBT:
            step = StepName.VALIDATE_CHANNEL if needs_lookup(state) else StepName.CREATE_SESSION
            # An attempt at the very deadline is still made.
            end = deadline_of(state, policy.creation) + timedelta(milliseconds=1)
            return (DueStep(step, state.due_since), DueStep(StepName.ENFORCE_DEADLINE, end))
        case Status.ATTEMPTING:
            # Due at once, but leased to the sender: claimable once that lease lapses.
            return (DueStep(StepName.SETTLE_ATTEMPT, state.due_since),)
        case Status.ACTIVE | Status.EXPIRED | Status.WITHDRAWN:
            return _after_outcome(state)
        case Status.NEW | Status.PARKED | Status.REFUSED | Status.REJECTED | Status.ABANDONED:
            return ()
        case _:
            assert_never(state.status)


def _after_outcome(state: Session) -> tuple[DueStep, ...]:
    steps = []
    if state.webhook_owed:
        assert state.created_at is not None, "only a created session has a notice"
        steps.append(DueStep(StepName.DELIVER_WEBHOOK, state.webhook_retry_at or state.created_at))
    if state.status is Status.ACTIVE and state.expires_at is not None:
        steps.append(DueStep(StepName.EXPIRE_TOKEN, state.expires_at))
    return tuple(steps)


def needs_lookup(state: Session) -> bool:
    """Whether its channel still has to be looked up."""
    return state.status is Status.PENDING and not state.channel_validated
