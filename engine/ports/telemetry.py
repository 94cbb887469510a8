"""What the engine reports while it works, for traces, counters and log lines.

An activity begins with its `with` block and ends with it, also by an exception. Implementations raise nothing and do no I/O.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol, Self
from uuid import UUID

from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import Append
from guestledger.engine.ports.due_steps import Claim


class RequestPurpose(StrEnum):
    """What an outbound request is for."""

    TOKEN = "token"  # noqa: S105 - a purpose, not a token
    CHANNEL = "channel"
    SESSION = "session"
    WEBHOOK = "webhook"

    __hash__ = str.__hash__  # an enum's own is slow, and these are keys


class Opening(Protocol):
    """A call of `open_session`."""

    def came_to(self, session: Session) -> None:
        """Note the session that the caller gets: an earlier one, if its idempotency key was known."""
        ...


class StepRun(Protocol):
    """A step that runs, until its outcome is recorded."""

    def came_to(self, commands: Sequence[Command]) -> None:
        """Note what came of it."""
        ...


class Request(Protocol):
    """An outbound request."""

    def answered(self, status: int) -> None:
        """Note the answer."""
        ...


class Address(Protocol):
    """Where a request goes. It may hold secrets: see `Telemetry.request`."""

    @property
    def host(self) -> str | None:
        """Its host."""
        ...

    @property
    def port(self) -> int | None:
        """Its port."""
        ...


class Telemetry(Protocol):
    """The hooks of traces, counters and log lines."""

    def opening(self, session_id: UUID) -> AbstractContextManager[Opening]:
        """A caller opens a session."""
        ...

    def claimed(self, claims: Sequence[Claim]) -> None:
        """A worker claimed due steps."""
        ...

    def step(self, session: Session, step: StepName, *, claimed: bool) -> AbstractContextManager[StepRun]:
        """A step of a session runs. `claimed`: by a worker, else beside the caller."""
        ...

    def request(self, purpose: RequestPurpose, method: str, url: Address) -> AbstractContextManager[Request]:
        """A request is sent. Of `url` no credentials and no query are kept, and of a webhook's no path."""
        ...

    def appending(self, append: Append) -> AbstractContextManager[object]:
        """An append waits for its batch and its commit."""
        ...

    def committing(self, appends: Sequence[Append]) -> AbstractContextManager[object]:
        """A batch of appends, which has the ledger's lock, is committed."""
        ...


class _Nothing:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def came_to(self, _outcome: object) -> None: ...

    def answered(self, _status: int) -> None: ...


_NOTHING = _Nothing()


class NoTelemetry:
    """A `Telemetry` that notes nothing."""

    def opening(self, _session_id: UUID) -> _Nothing:
        """See `Telemetry.opening`."""
        return _NOTHING

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See `Telemetry.claimed`."""

    def step(self, _session: Session, _step: StepName, *, claimed: bool) -> _Nothing:  # noqa: ARG002 - as in the port
        """See `Telemetry.step`."""
        return _NOTHING

    def request(self, _purpose: RequestPurpose, _method: str, _url: Address) -> _Nothing:
        """See `Telemetry.request`."""
        return _NOTHING

    def appending(self, _append: Append) -> _Nothing:
        """See `Telemetry.appending`."""
        return _NOTHING

    def committing(self, _appends: Sequence[Append]) -> _Nothing:
        """See `Telemetry.committing`."""
        return _NOTHING
