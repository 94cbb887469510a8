"""The hooks of the engine: they count, start spans, and say which session a log line belongs to."""

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from yarl import URL

from guestledger.adapters.telemetry.log_context import work
from guestledger.adapters.telemetry.measurements import Measurements
from guestledger.adapters.telemetry.outcomes import count
from guestledger.engine.domain.commands import Command
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import Append
from guestledger.engine.log.codec import wire_name
from guestledger.engine.ports.due_steps import Claim
from guestledger.engine.ports.telemetry import Address, RequestPurpose

if TYPE_CHECKING:
    from guestledger.adapters.telemetry.spans import OpenSpan, Spans

_Attributes = Mapping[str, str | int]
_LOOK_SECONDS = 1.0
"""How soon a tracer provider is noticed that the host sets late."""

_PURPOSES = {
    StepName.VALIDATE_CHANNEL: RequestPurpose.CHANNEL,
    StepName.CREATE_SESSION: RequestPurpose.SESSION,
    StepName.DELIVER_WEBHOOK: RequestPurpose.WEBHOOK,
}
"""What the own request of a step is for."""


class Instruments:
    """A `Telemetry`. `database` has the attributes of its spans: where the log is, without credentials."""

    def __init__(self, database: _Attributes) -> None:
        self.measured = Measurements()
        self.database = database
        self.tracing: Spans | None = None
        """What makes spans; `None` while the host has no tracer provider."""
        self._spans = _spans()
        self._looked_at = float("-inf")
        self._look()

    def _look(self) -> None:
        # Not at each activity: it would be the largest part of their cost.
        if self.tracing is not None or self._spans is None:
            return
        now = time.monotonic()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self.tracing = self._spans if self._spans.is_active() else None

    def opening(self, session_id: UUID) -> "_Opening":
        """See `Telemetry.opening`."""
        self._look()
        return _Opening(self, session_id)

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See `Telemetry.claimed`."""
        self._look()
        for claim in claims:
            self.measured.waits[claim.step].observe((claim.claimed_at - claim.due_at).total_seconds())

    def step(self, session: Session, step: StepName, *, claimed: bool) -> "_Step":
        """See `Telemetry.step`."""
        return _Step(self, session, step, claimed=claimed)

    def request(self, purpose: RequestPurpose, method: str, url: Address) -> "_Request":
        """See `Telemetry.request`."""
        return _Request(self, purpose, method, url)

    def appending(self, append: Append) -> "_Appending":
        """See `Telemetry.appending`."""
        return _Appending(self, append)

    def committing(self, appends: Sequence[Append]) -> "_Committing":
        """See `Telemetry.committing`."""
        return _Committing(self, appends)


class _Opening:
    __slots__ = ("_began", "_instruments", "_is_new", "_span", "_status", "_token", "session_id")

    step = None

    def __init__(self, instruments: Instruments, session_id: UUID) -> None:
        self.session_id = session_id
        self._instruments = instruments
        self._is_new, self._status = True, "error"
        self._span: OpenSpan | None = None

    def __enter__(self) -> Self:
        self._token = work.set(self)
        self._began = time.perf_counter()
        if (tracing := self._instruments.tracing) is not None:
            self._span = tracing.start("open_session", {"guestledger.session.id": str(self.session_id)})
        return self

    def came_to(self, session: Session) -> None:
        self._is_new, self._status = session.id == self.session_id, session.status.value
        if self._span is not None:
            found = {"guestledger.session.id": str(session.id), "guestledger.outcome": self._status}
            self._span.span.set_attributes(found)

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._instruments.measured.openings[self._status].observe(time.perf_counter() - self._began)
        work.reset(self._token)
        if self._span is not None and (tracing := self._instruments.tracing) is not None:
            self._span.end(kind)
            if self._is_new:
                tracing.mark_session(self.session_id, self._span)


class _Step:
    __slots__ = ("_claimed", "_instruments", "_sent", "_session", "_span", "_token", "session_id", "step")

    def __init__(self, instruments: Instruments, session: Session, step: StepName, *, claimed: bool) -> None:
        self.session_id, self.step = session.id, step
        self._instruments, self._session, self._claimed = instruments, session, claimed
        self._sent = 0
        self._span: OpenSpan | None = None

    def __enter__(self) -> Self:
        self._token = work.set(self)
        if (tracing := self._instruments.tracing) is not None:
            self._span = self._start(tracing)
        return self

    def came_to(self, commands: Sequence[Command]) -> None:
        outcome = count(commands, self._instruments.measured)
        if outcome is not None and self._span is not None:
            self._span.span.set_attribute("guestledger.outcome", outcome)

    def resends(self, purpose: RequestPurpose) -> int:
        """How often the request that is sent now was sent before, attempts of other processes included."""
        if purpose is not _PURPOSES.get(self.step):  # a token
            return 0
        self._sent += 1
        return (self._attempt() or 1) + self._sent - 2

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        work.reset(self._token)
        if self._span is not None:
            self._span.end(kind)

    def _start(self, tracing: "Spans") -> "OpenSpan":
        attributes: dict[str, str | int] = {
            "guestledger.session.id": str(self.session_id),
            "guestledger.step": self.step.value,
        }
        if (attempt := self._attempt()) is not None:
            attributes["guestledger.attempt"] = attempt
        if not self._claimed:
            return tracing.start(self.step.value, attributes)
        return tracing.start(self.step.value, attributes, kind="consumer", of=[self.session_id])

    def _attempt(self) -> int | None:
        if self.step is StepName.CREATE_SESSION:
            return self._session.attempts + 1
        return self._session.webhook_failures + 1 if self.step is StepName.DELIVER_WEBHOOK else None


class _Request:
    __slots__ = ("_began", "_instruments", "_method", "_purpose", "_span", "_url")

    def __init__(self, instruments: Instruments, purpose: RequestPurpose, method: str, url: Address) -> None:
        self._instruments, self._purpose, self._method, self._url = instruments, purpose, method, url
        self._span: OpenSpan | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        if (tracing := self._instruments.tracing) is not None:
            self._span = self._start(tracing)
        return self

    def answered(self, status: int) -> None:
        if self._span is not None:
            self._span.span.set_attribute("http.response.status_code", status)
            if status >= 400:
                self._span.fail(str(status))

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._instruments.measured.requests[self._purpose].observe(time.perf_counter() - self._began)
        if self._span is not None:
            self._span.end(kind)

    def _start(self, tracing: "Spans") -> "OpenSpan":
        attributes: dict[str, str | int] = {
            "http.request.method": self._method,
            "server.address": self._url.host or "",
            "server.port": self._url.port or 0,
            "url.full": _shown(self._url, self._purpose),
            "guestledger.request": self._purpose.value,
        }
        step = work.get()
        if isinstance(step, _Step) and (resends := step.resends(self._purpose)):
            attributes["http.request.resend_count"] = resends
        return tracing.start(self._method, attributes, kind="client")


class _Appending:
    __slots__ = ("_append", "_began", "_instruments", "_span")

    def __init__(self, instruments: Instruments, append: Append) -> None:
        self._instruments, self._append = instruments, append
        self._span: OpenSpan | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        if (tracing := self._instruments.tracing) is not None:
            events = [wire_name(event) for event in self._append.events]
            session = str(self._append.stream_id)
            self._span = tracing.start("append", {"guestledger.session.id": session, "guestledger.events": events})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        measured = self._instruments.measured
        measured.appends.observe(time.perf_counter() - self._began)
        if kind is None:
            for event in self._append.events:
                measured.events[wire_name(event)] += 1
        if self._span is not None:
            self._span.end(kind)


class _Committing:
    __slots__ = ("_appends", "_instruments", "_span")

    def __init__(self, instruments: Instruments, appends: Sequence[Append]) -> None:
        self._instruments, self._appends = instruments, appends
        self._span: OpenSpan | None = None

    def __enter__(self) -> Self:
        if (tracing := self._instruments.tracing) is not None:
            self._span = self._start(tracing)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._instruments.measured.batches.observe(len(self._appends))
        if self._span is not None:
            self._span.end(kind)

    def _start(self, tracing: "Spans") -> "OpenSpan":
        size = len(self._appends)
        name = "BATCH INSERT" if size > 1 else "INSERT"
        attributes = {**self._instruments.database, "db.operation.name": name}
        if size > 1:
            attributes["db.operation.batch.size"] = size
        sessions = [append.stream_id for append in self._appends]
        return tracing.start(f"{name} events", attributes, kind="client", of=sessions)


def _shown(address: Address, purpose: RequestPurpose) -> str:
    """The URL without credentials and query. A webhook's path may be its secret."""
    url = URL(str(address)).with_user(None).with_query(None).with_fragment(None)
    return str(url.with_path("/REDACTED") if purpose is RequestPurpose.WEBHOOK else url)


def _spans() -> "Spans | None":
    try:
        from guestledger.adapters.telemetry.spans import Spans  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        return None
    return Spans(version("guestledger"))
