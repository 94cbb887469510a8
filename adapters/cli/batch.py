"""Opening a batch: request lines in, answers out in the same order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

import guestledger
from guestledger.adapters.cli.error_lines import error_line
from guestledger.adapters.cli.lines import MAX_LINE, Line, UnreadableInput
from guestledger.adapters.cli.outage import Outage, is_outage
from guestledger.adapters.cli.show import progress
from guestledger.adapters.forms.messages import session_reason

MAX_UNANSWERED = 10_000
"""How many lines are read ahead of the oldest one without an answer."""
MAX_UNANSWERED_BYTES = 4 * 1024 * 1024
"""How many bytes these lines may have. In memory, JSON takes up to thirty times as much."""
_POLL_SECONDS = 0.2
_FINISH_SECONDS = 5
_REPEATS = 2
"""How often a line with an idempotency key is opened again, if outages cut it off."""

Answer = dict[str, Any]


class _NotDone(Exception):
    """No more comes of a line; the text says why."""


class OpeningBatch:
    """One run of `open`. `answered` is called as soon as a line has its answer, in any order.

    Afterwards, `trouble` is the service error, if any, `unread` what ended the reading early, and `short` how many
    lines did not end active. After `stop`, `left` lines were read and not accepted, and `cut_off` ones may have been.
    """

    def __init__(
        self,
        ledger: guestledger.Ledger,
        *,
        concurrency: int,
        wait: bool,
        tokens: bool = False,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self.trouble: guestledger.GuestledgerError | None = None
        self.unread: UnreadableInput | None = None
        self.short = self.read = self.left = self.cut_off = 0
        self._ledger = ledger
        self._slots = asyncio.Semaphore(concurrency)
        self._wait = wait
        self._tokens = tokens
        self._answered = answered
        self._waiting: dict[UUID, asyncio.Event] = {}
        self._unanswered: deque[int] = deque()  # the sizes of the lines
        self._unanswered_bytes = 0
        self._has_room = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        self._in_flight: set[asyncio.Timeout] = set()
        self._stop_at: float | None = None
        self._outage = Outage(ledger.checks.databases)
        self._seen: guestledger.GuestledgerError | None = None  # the scheduler keeps an error until its next success
        settled = (status for status in guestledger.Status if status.is_settled)
        self._done = frozenset((*settled, guestledger.Status.PARKED))  # a parked session waits for a person

    def stop(self, seconds: float) -> None:
        """Read and accept no more lines; `run` returns when those in flight are done, or cut off after `seconds`.

        A scheduler continues those cut off. Throttled sessions and those in doubt are answered as they are.
        """
        self._stop_at = asyncio.get_running_loop().time() + seconds
        for limit in self._in_flight:
            limit.reschedule(self._stop_at)
        for settled in self._waiting.values():
            settled.set()
        if self._reading is not None:
            self._reading.cancel()
        self._outage.close()

    async def run(self, lines: AsyncIterator[Line], write: Callable[[Answer], Awaitable[None]]) -> None:
        """Answer every line, in order."""
        answers: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._reading = tasks.create_task(self._read(lines, answers, tasks))
                self._reading.add_done_callback(lambda _reading: answers.put_nowait(None))
                watching = tasks.create_task(self._watch())
                while (answer := await answers.get()) is not None:
                    await write(await answer)
                    self._unanswered_bytes -= self._unanswered.popleft()
                    self._has_room.set()
                watching.cancel()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # the first one cancelled the others
        finally:
            self._outage.close()
        self.trouble = self.trouble or self._outage.gone  # the last answers may come before the next look

    async def finish(self) -> None:
        """Do what is due now, mostly webhooks, for a few seconds; workers do the rest.

        Steps in flight then finish: an attempt cut off would be in doubt.
        """
        enough = asyncio.get_running_loop().call_later(_FINISH_SECONDS, self._ledger.scheduler.stop)
        try:
            with progress(None, "sending webhooks"):
                await self._ledger.scheduler.run_once()
        finally:
            enough.cancel()

    async def _read(
        self,
        lines: AsyncIterator[Line],
        answers: asyncio.Queue[asyncio.Task[Answer] | None],
        tasks: asyncio.TaskGroup,
    ) -> None:
        try:
            async for number, line in lines:
                if self._stop_at is not None:
                    return
                self.read = number
                self._unanswered.append(len(line))
                self._unanswered_bytes += len(line)
                answers.put_nowait(tasks.create_task(self._answer(number, line)))
                while len(self._unanswered) >= MAX_UNANSWERED or self._unanswered_bytes >= MAX_UNANSWERED_BYTES:
                    self._has_room.clear()
                    await self._has_room.wait()
        except UnreadableInput as error:
            self.unread = error

    async def _answer(self, number: int, line: bytes) -> Answer:
        try:
            request = _parse(line)
            async with self._slots:
                await self._outage.over()
                session = await self._until_stopped(self._open(request))
            if self._wait and session.status not in self._done and self._stop_at is None:
                session = await self._settled(session)
        except _NotDone as not_done:
            answer = {"line": number, "error": {"field": "", "reason": str(not_done)}}
        except guestledger.InvalidRequest as error:
            answer = {"line": number, "error": {"field": error.field, "reason": error.reason}}
        except guestledger.ServiceError as error:
            self._met(error)
            known = f"was accepted as session {error.accepted}" if error.accepted else "may not have been accepted"
            answer = {"line": number, "error": {"field": "", "reason": f"{known}: {error_line(error)}"}}
        except guestledger.GuestledgerError as error:
            answer = {"line": number, "error": {"field": "", "reason": error_line(error)}}
        else:
            answer = {"line": number, **self._session_answer(session)}
        self.short += answer.get("status") != guestledger.Status.ACTIVE
        self._answered()
        return answer

    async def _open(self, request: guestledger.GuestRequest, repeats: int = _REPEATS) -> guestledger.Session:
        if self._outage.gone is not None:
            self.left += 1
            raise _NotDone(f"not accepted: {error_line(self._outage.gone)}")
        if self.trouble is not None:  # requests are still accepted
            return await self._ledger.accept(request)
        try:
            return await self._ledger.open_session(request)
        except guestledger.ServiceError as error:
            self._met(error)
            if error.accepted is not None:
                return await self._session(error.accepted)
            # It may have been recorded: without a key, opening it again could make a second session for the guest.
            if not repeats or request.idempotency_key is None or not await self._outage_ended(error):
                raise
        return await self._open(request, repeats - 1)

    async def _outage_ended(self, error: guestledger.ServiceError) -> bool:
        """Wait for the end of the outage, if this error tells of one. False: it is none, or lasts, or `open` is stopped."""
        if not is_outage(error) or self._stop_at is not None:
            return False
        # `stop` ends the wait.
        return await self._outage.over() and self._stop_at is None

    async def _session(self, session_id: UUID) -> guestledger.Session:
        """Read a session that was accepted, after an outage if there is one. Raises `ServiceError`."""
        while True:
            try:
                return await self._ledger.session(session_id)
            except guestledger.ServiceError as error:
                self._met(error)
                if not await self._outage_ended(error):
                    raise error.with_accepted(session_id) from None

    def _met(self, error: guestledger.GuestledgerError) -> None:
        if is_outage(error):
            self._outage.note(error)
        else:
            self.trouble = self.trouble or error

    async def _until_stopped(self, opening: Coroutine[Any, Any, guestledger.Session]) -> guestledger.Session:
        if self._stop_at is not None:
            opening.close()
            self.left += 1
            raise _NotDone("not accepted: `open` was stopped")
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._in_flight.add(limit)
                return await opening
        except TimeoutError:
            if not limit.expired():
                raise
            self.cut_off += 1
            raise _NotDone("may have been accepted: `open` was stopped, and it was cut off") from None
        finally:
            self._in_flight.discard(limit)

    async def _settled(self, session: guestledger.Session) -> guestledger.Session:
        settled = self._waiting.setdefault(session.id, asyncio.Event())
        await settled.wait()
        if self._stop_at is not None:
            return session
        return await self._session(session.id)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            if (met := self._ledger.scheduler.trouble) is not None and met is not self._seen:
                self._met(met)
            self._seen = met
            self.trouble = self.trouble or self._outage.gone
            if self.trouble is not None:
                done = list(self._waiting)
            elif self._waiting:
                wanted = guestledger.SessionFilter(ids=tuple(self._waiting), statuses=tuple(self._done))
                try:
                    done = [row.id async for row in self._ledger.sessions(wanted)]
                except guestledger.GuestledgerError as error:
                    self._met(error)
                    continue
            else:
                continue
            for session_id in done:
                self._waiting.pop(session_id).set()

    def _session_answer(self, session: guestledger.Session) -> Answer:
        answer: Answer = {"id": session.id, "status": session.status, "channelId": session.channel_id}
        if session.session_id is not None:
            answer |= {
                "sessionId": session.session_id,
                "expiresAt": session.expires_at,
                "latencyMs": session.latency_ms,
            }
            if self._tokens:
                answer["token"] = session.guest_token
        elif session.status.is_settled:
            answer["error"] = {"field": _field(session), "reason": session_reason(session)}
        else:
            answer |= {"retryAt": session.retry_at, "reason": session_reason(session)}
        return answer


def _parse(line: bytes) -> guestledger.GuestRequest:
    if len(line) > MAX_LINE:
        raise guestledger.InvalidRequest("", f"is longer than {MAX_LINE} bytes")
    return guestledger.parse_request(line)


def _field(session: guestledger.Session) -> str:
    if session.status is guestledger.Status.REFUSED:
        return "consent"
    if session.status is guestledger.Status.REJECTED and not session.channel_validated:
        return "channelId"
    return ""
