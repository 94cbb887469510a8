"""The hooks of the engine: they count, start spans, and say which session a log line belongs to."""

import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import UUID

from yarl import URL

from guestledger.adapters.telemetry.log_context import Work, work
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

_Error = type[BaseException] | None
_Attributes = Mapping[str, str | int]


class _Sending:
    """The requests of one step: which sending of the same request each is."""

    __slots__ = ("_sent", "attempt", "purpose")

    def __init__(self, step: StepName, attempt: int) -> None:
        self.purpose = _PURPOSES.get(step)
        self.attempt = attempt
        self._sent = 0

    def resends(self, purpose: RequestPurpose) -> int:
        """How often the same request was sent before, attempts of other processes included."""
        if purpose is not self.purpose:
            return 0
        self._sent += 1
        return self.attempt + self._sent - 2


_PURPOSES = {
    StepName.VALIDATE_CHANNEL: RequestPurpose.CHANNEL,
    StepName.CREATE_SESSION: RequestPurpose.SESSION,
    StepName.DELIVER_WEBHOOK: RequestPurpose.WEBHOOK,
}
_sending: ContextVar[_Sending | None] = ContextVar("guestledger_sending", default=None)


class Instruments:
    """A `Telemetry`. `database` has the attributes of its spans: where the log is, without credentials."""

    def __init__(self, database: _Attributes) -> None:
        self.measured = Measurements()
        self.database = database
        self._spans = _spans()

    def spans(self) -> "Spans | None":
        """What makes spans; `None` unless the host has a tracer provider."""
        return self._spans if self._spans is not None and self._spans.is_active() else None

    def opening(self, session_id: UUID) -> "_Opening":
        """See `Telemetry.opening`."""
        return _Opening(self, session_id)

    def claimed(self, claims: Sequence[Claim]) -> None:
        """See `Telemetry.claimed`."""
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


class _Activity:
    """An activity with its duration and, if the host traces, its span."""

    __slots__ = ("_began", "_instruments", "_span")

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._span: OpenSpan | None = None

    def __enter__(self) -> Self:
        self._began = time.perf_counter()
        if (spans := self._instruments.spans()) is not None:
            self._span = self._start(spans)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._span is not None:
            self._span.end(kind)
        self._end(time.perf_counter() - self._began, kind)

    def _start(self, spans: "Spans") -> "OpenSpan":
        raise NotImplementedError

    def _end(self, seconds: float, error: _Error) -> None: ...


class _Opening(_Activity):
    __slots__ = ("_is_new", "_session_id", "_status", "_token")

    def __init__(self, instruments: Instruments, session_id: UUID) -> None:
        super().__init__(instruments)
        self._session_id, self._is_new, self._status = session_id, True, "error"
        self._token: Token[Work | None]

    def __enter__(self) -> Self:
        self._token = work.set(Work(self._session_id))
        return super().__enter__()

    def came_to(self, session: Session) -> None:
        self._is_new, self._status = session.id == self._session_id, session.status.value
        if self._span is not None:
            found = {"guestledger.session.id": str(session.id), "guestledger.outcome": self._status}
            self._span.span.set_attributes(found)

    def _start(self, spans: "Spans") -> "OpenSpan":
        return spans.start("open_session", {"guestledger.session.id": str(self._session_id)})

    def _end(self, seconds: float, _error: _Error) -> None:
        self._instruments.measured.openings[self._status].observe(seconds)
        work.reset(self._token)
        if self._is_new and self._span is not None and (spans := self._instruments.spans()) is not None:
            spans.mark_session(self._session_id, {"guestledger.session.id": str(self._session_id)}, self._span)


class _Step(_Activity):
    __slots__ = ("_claimed", "_sending_token", "_session", "_step", "_work_token")

    def __init__(self, instruments: Instruments, session: Session, step: StepName, *, claimed: bool) -> None:
        super().__init__(instruments)
        self._session, self._step, self._claimed = session, step, claimed

    def __enter__(self) -> Self:
        self._work_token = work.set(Work(self._session.id, self._step.value))
        self._sending_token = _sending.set(_Sending(self._step, _attempt(self._session, self._step) or 1))
        return super().__enter__()

    def came_to(self, commands: Sequence[Command]) -> None:
        outcome = count(commands, self._instruments.measured)
        if outcome is not None and self._span is not None:
            self._span.span.set_attribute("guestledger.outcome", outcome)

    def _start(self, spans: "Spans") -> "OpenSpan":
        attributes: dict[str, str | int] = {
            "guestledger.session.id": str(self._session.id),
            "guestledger.step": self._step.value,
        }
        if (attempt := _attempt(self._session, self._step)) is not None:
            attributes["guestledger.attempt"] = attempt
        if not self._claimed:
            return spans.start(self._step.value, attributes)
        return spans.start(self._step.value, attributes, kind="consumer", of=[self._session.id])

    def _end(self, _seconds: float, _error: _Error) -> None:
        _sending.reset(self._sending_token)
        work.reset(self._work_token)


class _Request(_Activity):
    __slots__ = ("_method", "_purpose", "_url")

    def __init__(self, instruments: Instruments, purpose: RequestPurpose, method: str, url: Address) -> None:
        super().__init__(instruments)
        self._purpose, self._method, self._url = purpose, method, url

    def answered(self, status: int) -> None:
        if self._span is not None:
            self._span.span.set_attribute("http.response.status_code", status)
            if status >= 400:
                self._span.fail(str(status))

    def _start(self, spans: "Spans") -> "OpenSpan":
        attributes: dict[str, str | int] = {
            "http.request.method": self._method,
            "server.address": self._url.host or "",
            "server.port": self._url.port or 0,
            "url.full": _shown(self._url, self._purpose),
            "guestledger.request": self._purpose.value,
        }
        sending = _sending.get()
        if sending is not None and (resends := sending.resends(self._purpose)):
            attributes["http.request.resend_count"] = resends
        return spans.start(self._method, attributes, kind="client")

    def _end(self, seconds: float, _error: _Error) -> None:
        self._instruments.measured.requests[self._purpose].observe(seconds)


class _Appending(_Activity):
    __slots__ = ("_append",)

    def __init__(self, instruments: Instruments, append: Append) -> None:
        super().__init__(instruments)
        self._append = append

    def _start(self, spans: "Spans") -> "OpenSpan":
        events = [wire_name(event) for event in self._append.events]
        session = str(self._append.stream_id)
        return spans.start("append", {"guestledger.session.id": session, "guestledger.events": events})

    def _end(self, seconds: float, error: _Error) -> None:
        measured = self._instruments.measured
        measured.appends.observe(seconds)
        if error is None:
            measured.events.update(map(wire_name, self._append.events))


class _Committing(_Activity):
    __slots__ = ("_appends",)

    def __init__(self, instruments: Instruments, appends: Sequence[Append]) -> None:
        super().__init__(instruments)
        self._appends = appends

    def _start(self, spans: "Spans") -> "OpenSpan":
        size = len(self._appends)
        name = "BATCH INSERT" if size > 1 else "INSERT"
        attributes = {**self._instruments.database, "db.operation.name": name}
        if size > 1:
            attributes["db.operation.batch.size"] = size
        sessions = [append.stream_id for append in self._appends]
        return spans.start(f"{name} events", attributes, kind="client", of=sessions)

    def _end(self, _seconds: float, error: _Error) -> None:
        if error is None:
            self._instruments.measured.batches.observe(len(self._appends))


def _shown(address: Address, purpose: RequestPurpose) -> str:
    """The URL without credentials and query. A webhook's path may be its secret."""
    url = URL(str(address)).with_user(None).with_query(None).with_fragment(None)
    return str(url.with_path("/REDACTED") if purpose is RequestPurpose.WEBHOOK else url)


def _attempt(session: Session, step: StepName) -> int | None:
    if step is StepName.CREATE_SESSION:
        return session.attempts + 1
    return session.webhook_failures + 1 if step is StepName.DELIVER_WEBHOOK else None


def _spans() -> "Spans | None":
    try:
        from guestledger.adapters.telemetry.spans import Spans  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        return None
    return Spans(version("guestledger"))
