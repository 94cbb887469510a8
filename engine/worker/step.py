"""What a step handler gets and returns."""

from datetime import datetime
from enum import Enum
from typing import Protocol

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.events import Event
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.admission import AdmissionRequest
from guestledger.engine.limits.feedback import Feedback
from guestledger.engine.log.appends import Appended
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.key_vault import KEY_VAULT
from guestledger.engine.ports.legal_holds import LegalHolds
from guestledger.engine.ports.provider import Provider
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.webhook import WebhookSender
from guestledger.engine.worker.calls import CallLimit
from guestledger.engine.worker.outages import OutageReporter


class Lane(Enum):
    """Steps that share capacity, so that a hanging webhook never delays a creation."""

    CREATION = "creation"
    WEBHOOK = "webhook"
    RECORDING = "recording"
    """Steps that only record the passing of time, without a limiter."""

    @property
    def max_in_flight(self) -> int:
        """How many steps of the lane one process runs at once. Webhooks: those of two batches of 64 callers."""
        return {Lane.CREATION: 64, Lane.WEBHOOK: 128, Lane.RECORDING: 200}[self]

    @property
    def max_lease_ms(self) -> int | None:
        """The longest lease of a claim; `None`: the worker's own. After a crash, an expiry should not wait a whole one."""
        return 1_500 if self is Lane.RECORDING else None


def require_revealed(session: Session) -> None:
    """Raise `ServiceUnreachable` if the guest's data cannot be read: its key is lost, or not here yet."""
    if not session.is_revealed:
        detail = f"session {session.id}: its data key is missing"
        raise ServiceUnreachable(KEY_VAULT, Cause.NOT_READY, detail)


class StepResult(msgspec.Struct, frozen=True, kw_only=True):
    """The executor decides `commands`, and records the events with `feedback`."""

    commands: tuple[Command, ...] = ()
    feedback: Feedback | None = None
    sent_nothing: bool = False
    """No effect depends on the events yet: they may be recorded together with those of the next step."""
    stop: bool = False
    """The limiter denied the request: stop here. Without commands, the step is due again at once."""
    lease_lost: bool = False
    """Another worker may be at work: record what happened, and stop."""


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """What handlers call."""

    provider: Provider
    webhook: WebhookSender
    limiter: RateLimiter
    holds: LegalHolds
    clock: Clock
    policy: Policy
    calls: CallLimit
    outages: OutageReporter


class StepContext(Protocol):
    """One step of one session at work."""

    @property
    def state(self) -> Session:
        """The session as it is now, decided events that are not recorded yet included."""
        ...

    @property
    def claimed(self) -> bool:
        """Whether a worker claimed the step; else the caller of `open_session` runs it."""
        ...

    @property
    def must_ask(self) -> bool:
        """Whether the limiter of a claimed step knows something against its API."""
        ...

    @property
    def started_at(self) -> datetime:
        """When the step was claimed, by the database's clock; `now` if it was not claimed."""
        ...

    def now(self) -> datetime:
        """The time (UTC): never before the step was claimed."""
        ...

    def decide(self, command: Command) -> list[Event]:
        """The events that `command` would make now."""
        ...

    def admission(self, limiter: str) -> AdmissionRequest:
        """The request for admission by `limiter`. A reservation counts for the first one only."""
        ...

    def check_lease(self) -> None:
        """Raise `LeaseLost` unless the lease is valid. Call it right before anything is sent."""
        ...

    async def commit(
        self, command: Command | None = None, admission: AdmissionRequest | None = None
    ) -> Appended | None:
        """Record what is decided so far and the events of `command`, and keep the lease. `None`: there was nothing.

        Raises `WrongExpectedVersion`, `AppendDenied`, `SubjectErased`, `ServiceError`.
        """
        ...


class Handler(Protocol):
    """One step."""

    lane: Lane

    @property
    def limiter(self) -> str | None:
        """The limiter that its request passes; `None`: it sends none."""
        ...

    @property
    def enabled(self) -> bool:
        """Whether this process can run it; if not, others do."""
        ...

    async def run(self, session: Session, context: StepContext) -> StepResult:
        """Decide and call. Raises `LeaseLost` or `ServiceError` if nothing was done."""
        ...
