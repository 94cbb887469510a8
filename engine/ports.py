"""What the engine needs from outside, as protocols; the adapters satisfy them.

An event is proposed as an `Event` and comes back as a `RecordedEvent`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

import msgspec

from guestledger.engine.domain.outcomes import Channel, CreationOutcome, Delivered, LookupOutcome
from guestledger.engine.domain.personal import Guarded, Personal, PersonalBytes
from guestledger.engine.domain.session import Session
from guestledger.engine.limits.limiter import LimiterState
from guestledger.engine.limits.policy import AdmissionRequest, Admitted, Denied, Feedback
from guestledger.engine.log.appends import Append, Appended, Lease
from guestledger.engine.log.recorded import Batch, EventFilter, RecordedEvent
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.projections.status import ProjectionStatus, Verification
from guestledger.engine.work import Backlog, Claimed, Outlook, WorkStatus


class EventStore(Protocol):
    """The log."""

    async def append(self, append: Append) -> Appended:
        """Record the events of `append`, all or none, durably.

        Raises `WrongExpectedVersion` when the stream has moved on, `KeyTaken` when its key has opened another stream,
        `AppendDenied` when its limiter is not open, `EventTooLarge`, or `ServiceUnreachable` when the database does not answer; the append may have gone in then, and
        handing in the very same one again tells.
        """
        ...

    async def read_stream(self, stream_id: UUID) -> list[RecordedEvent]:
        """Every event of one stream, in order; empty when there is none. Raises `UnknownEvent`."""
        ...

    async def read_streams(self, stream_ids: Sequence[UUID]) -> dict[UUID, list[RecordedEvent]]:
        """The events of many streams in one round trip; a stream without events is left out. Raises `UnknownEvent`."""
        ...

    def read_all(
        self, *, after: int = -1, batch: int = 500, wanted: EventFilter = EventFilter()
    ) -> AsyncIterator[list[RecordedEvent]]:
        """What is asked for of the log, in order of position, in batches of at most `batch`, up to its present end.

        Raises `UnknownEvent` at an event that this release cannot read, once all before it have been given.
        """
        ...

    async def read_batch(self, *, after: int, batch: int = 500, wanted: EventFilter = EventFilter()) -> Batch:
        """The next events after a position, at most `batch`, and how far that has read the log.

        At the log's end the batch is empty and stands at `after`. Raises `UnknownEvent` when the very next event that was
        asked for cannot be read by this release; one further on only ends the batch before it.
        """
        ...

    def arrival(self) -> asyncio.Event:
        """An event that is set when the log may have grown since this call. A hint: it may come late, in vain, or never."""
        ...

    async def head(self) -> int:
        """The position of the last event; -1 when the log is empty."""
        ...


class Partition(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the log: the streams that began in one month (UTC)."""

    month: date | None
    """Its first day; `None` for what no month was made for."""
    attached: bool
    first_position: int | None
    """Of the events in it; `None` while there are none. Other months' events may lie between."""
    last_position: int | None
    bytes: int | None
    """On disk, indexes included; `None` where a detached month's table is no longer in the database."""


class Partitions(Protocol):
    """The parts that the log is stored in."""

    async def all(self) -> list[Partition]:
        """Every part, oldest first, what is detached among them; last what no month was made for."""
        ...

    async def ensure_partitions(self) -> None:
        """Make the months that come, and say (log) where events lie that no month was made for."""
        ...


class ConsumerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A named consumer of the log, and how far it has come."""

    name: str
    position: int
    """The last that it is done with; -1 before the first."""
    lag: int
    """How many positions the log is ahead of it."""
    running: bool
    """Whether some process holds it now."""


class ConsumerCheckpoints(Protocol):
    """The named consumers of the log: one row each, which one owner at a time holds under a lease."""

    async def claim(self, name: str, lease: Lease, start: int) -> int | None:
        """Take the consumer and return its position; `None` while somebody else holds it. A new one stands at `start`."""
        ...

    async def keep(self, name: str, lease: Lease) -> bool:
        """DenialReason it for another `lease.ms`; False when it was lost to somebody else."""
        ...

    async def move(self, name: str, owner: UUID, position: int) -> bool:
        """Set its position; False, and nothing set, when it was lost to somebody else."""
        ...

    async def release(self, name: str, owner: UUID) -> None:
        """Give it back; nothing when it was lost."""
        ...

    async def forget(self, name: str) -> bool:
        """Drop its checkpoint; False when there was none. One that runs learns that it was lost."""
        ...

    async def all(self) -> list[ConsumerRow]:
        """Every consumer, by name."""
        ...


class DueSteps(Protocol):
    """The work that sessions still need: one row a session, written with the events that make it so."""

    async def claim(self, lease: Lease, steps: Mapping[str, str | None], limit: int) -> Claimed:
        """Lease up to `limit` rows that are due now and are free or whose lease has lapsed, longest due first.

        `steps` are those wanted, each with the limiter that its request passes. Of what is behind a limiter, as much is leased as it
        lets through now, with a slot for each; and whatever has been due for so long that nothing is to be sent for it any more:
        with `ExpireToken`, that is also a token whose time has come before its webhook was told, and one whose expiry somebody
        else has leased and not recorded in time.
        """
        ...

    async def heartbeat(self, lease: Lease, stream_ids: Sequence[UUID]) -> set[UUID]:
        """DenialReason the leases of its owner on these rows for another `lease.ms`.

        Returns the rows for which that was done. The others are lost, or somebody is just writing to them.
        """
        ...

    async def release(self, owner: UUID, stream_id: UUID, delay_ms: int, step: str | None = None) -> None:
        """Give a row back, to be claimed by anybody after `delay_ms`, as due for `step` if one is named.

        Nothing when the lease was lost.
        """
        ...

    async def release_all(self, owners: Iterable[UUID]) -> None:
        """Give back whatever these owners still hold, to be claimed by anybody at once, and let other processes know."""
        ...

    async def outlook(self, steps: Mapping[str, str | None]) -> Outlook:
        """What there is to do now, and when to look again: one statement, and a cheap one, for whoever has nothing to do.

        `steps` are as `claim` has them: what is behind a closed limiter is not there to be claimed before it opens.
        """
        ...

    async def backlog(self, steps: Mapping[str, str | None]) -> Backlog:
        """How much is left. It counts; to ask only whether anything is left, `is_idle` is cheaper."""
        ...

    async def is_idle(self, steps: Mapping[str, str | None]) -> bool:
        """Whether nothing is left that `backlog` would count."""
        ...

    async def standing(self, stream_id: UUID) -> WorkStatus:
        """How this session stands among the work now. Holds nothing up."""
        ...


class RateLimiter(Protocol):
    """What all processes know together of the APIs that they call."""

    async def admit(self, passage: AdmissionRequest, asking: Collection[UUID] | None = None) -> Admitted | Denied:
        """Let a request through now, or say what holds it back: for one that no append announces.

        `asking` are the sessions that are leased for a call and have not been let through yet, this one's among them; `None`:
        the request needs no place among the calls whose number is limited, or has one with its slot.
        """
        ...

    async def observe(self, hearing: Feedback) -> None:
        """Take in what an answer tells: of one that no append records."""
        ...

    async def all(self) -> dict[str, LimiterState]:
        """Every limiter that anything is known against, by name."""
        ...

    async def forget(self, name: str) -> bool:
        """Forget what is known against this one; False when nothing is."""
        ...


class PreparedCreation(Guarded, frozen=True, kw_only=True):
    """A creation request, ready to be sent: the body's bytes and their SHA-256 (hex)."""

    body: PersonalBytes
    sha256: Personal


class Provider(Protocol):
    """CXone, or what speaks like it."""

    @property
    def creation_limiter(self) -> str:
        """The limiter that creations pass: the API's host and the scope of its quota."""
        ...

    @property
    def lookup_limiter(self) -> str:
        """The limiter that channel look-ups pass."""
        ...

    def known_channel(self, channel_id: str) -> Channel | None:
        """A recent answer about the channel, if one is remembered. No I/O."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether a request can be sent at once, with no token to be fetched first. No I/O."""
        ...

    async def ready(self) -> None:
        """See that a request can be sent now.

        Raises `CredentialsRefused`, `RequestDenied` where the limiter that requests for tokens pass holds one back, or
        `ServiceUnreachable`.
        """
        ...

    async def look_up_channel(self, channel_id: str, again: Callable[[], Awaitable[None]]) -> LookupOutcome:
        """Ask what the channel is. `again` is called right before it is asked again with another token.

        Raises what `again` raises, and as `ready` does when no token is to be had.
        """
        ...

    def prepare(self, session: Session) -> PreparedCreation:
        """The creation request for the next attempt of `session`. Pure."""
        ...

    async def create(
        self, prepared: PreparedCreation, idempotency_key: str, check: Callable[[], Awaitable[None]]
    ) -> CreationOutcome:
        """Send it. `check` is called right before each time that it is sent: again only after a 401, with another token.

        Whatever the wire does to it is an outcome. Raises what `check` raises, and as `ready` does when no token is to be
        had; CXone has then made nothing.
        """
        ...


class WebhookSender(Protocol):
    """The analytics webhook."""

    @property
    def limiter(self) -> str:
        """The limiter that its calls pass: the receiver's host."""
        ...

    async def send(self, session: Session) -> Delivered:
        """Tell that `session` has started. Never raises for what the wire does."""
        ...


class Clock(Protocol):
    """Time and chance, the two inputs that the domain does not take for itself."""

    def now(self) -> datetime:
        """The time (UTC)."""
        ...

    def jitter(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def new_id(self) -> UUID:
        """A fresh UUIDv7: ids made later sort later."""
        ...


class ReadModels(Protocol):
    """The projections. Every reading shows what was projected last; `catch_up` first, to read your own writes."""

    async def catch_up(self) -> int:
        """Bring every projection up to the log's present end. Returns how many events were projected, over all of them.

        One that meets an event that it cannot take in stops there alone; the next call tries it again.
        """
        ...

    async def standing(self) -> list[ProjectionStatus]:
        """Every projection, and how far behind the log it is."""
        ...

    async def rebuild(self, name: str, advanced: Callable[[int], None]) -> int:
        """Make a projection's rows anew from the log and put them in place of the live ones, all at once.

        `advanced` is told each position on the way. Returns how many rows differed. Raises `UnknownProjection`,
        `ProjectionStopped`, `RebuildInterrupted`.
        """
        ...

    async def verify(self, name: str, advanced: Callable[[int], None]) -> Verification:
        """DenialReason a projection's rows against those that the log gives anew. Raises as `rebuild` does."""
        ...

    def sessions(self, wanted: SessionFilter) -> AsyncIterator[SessionRow]:
        """The sessions that match, oldest first."""
        ...

    async def stream_of(self, wanted: str) -> UUID | None:
        """The stream of the session with this id, the engine's own or CXone's."""
        ...

    def audit(self, wanted: AuditFilter) -> AsyncIterator[AuditEntry]:
        """The audit entries that match, oldest first."""
        ...

    async def metrics(self, wanted: MetricsFilter) -> Metrics:
        """The metrics over what matches."""
        ...
