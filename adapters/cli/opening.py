"""`guestledger open`: a file of guest requests goes in, one answer a line comes out, in the order of the lines."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, BinaryIO
from uuid import UUID

from guestledger.adapters.cli.show import progress
from guestledger.engine.domain.errors import GuestledgerError, InvalidRequest, ServiceError
from guestledger.engine.domain.request import GuestRequest, parse_request
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.projections.sessions import SessionFilter

MAX_LINE = 64 * 1024
# So many answers are kept back at most while the oldest of them is still waited for.
MAX_UNANSWERED = 10_000
_POLL_SECONDS = 0.2
_FINISH_SECONDS = 5
_SETTLED = (*(status for status in Status if status.is_settled), Status.PARKED)  # which waits for a person

Answer = dict[str, Any]
Line = tuple[int, bytes]


class _NotDone(Exception):
    """A line of which nothing more comes, and why."""


class Opening:
    """One run of `open`; `answered` is called when a line's answer is there, be it in its turn or not.

    After it, `trouble` is the service that could not be used, if any, and `short` is how many lines did not end active. Once it was
    told to stop, `left` is how many lines were read and not accepted, and `cut_off` how many of them may have been.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        concurrency: int,
        wait: bool,
        tokens: bool = False,
        answered: Callable[[], None] = lambda: None,
    ) -> None:
        self.trouble: GuestledgerError | None = None
        self.short = self.read = self.left = self.cut_off = 0
        self._ledger = ledger
        self._places = asyncio.Semaphore(concurrency)
        self._wait = wait
        self._tokens = tokens
        self._answered = answered
        self._waiting: dict[UUID, asyncio.Event] = {}
        self._unanswered = asyncio.Semaphore(MAX_UNANSWERED)
        self._reading: asyncio.Task[None] | None = None
        self._in_flight: set[asyncio.Timeout] = set()
        self._stop_at: float | None = None

    def stop(self, seconds: float) -> None:
        """Read no more lines, and accept none of those that wait; `run` then returns once those in flight are done.

        They are cut off after `seconds`, and a scheduler goes on with them. What is throttled or in doubt is answered as it is.
        """
        self._stop_at = asyncio.get_running_loop().time() + seconds
        for limit in self._in_flight:
            limit.reschedule(self._stop_at)
        for settled in self._waiting.values():
            settled.set()
        if self._reading is not None:
            self._reading.cancel()

    async def run(self, lines: AsyncIterator[Line], write: Callable[[Answer], None]) -> None:
        """Answer every line, each as soon as those before it have been answered."""
        answers: asyncio.Queue[asyncio.Task[Answer] | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as tasks:
                self._reading = tasks.create_task(self._read(lines, answers, tasks))
                self._reading.add_done_callback(lambda _reading: answers.put_nowait(None))  # be it cut short
                watching = tasks.create_task(self._watch())
                while (answer := await answers.get()) is not None:
                    write(await answer)
                    self._unanswered.release()
                watching.cancel()
        except BaseExceptionGroup as group:
            # The first one ended the others; whoever called knows what to do with a broken pipe, not with a group.
            raise group.exceptions[0] from None

    async def finish(self) -> None:
        """Do what is due now, webhooks above all, if it takes no longer than a moment; the rest is a worker's.

        What is under way by then is waited for: an attempt that is cut off would be in doubt.
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
        answers: "asyncio.Queue[asyncio.Task[Answer] | None]",
        tasks: asyncio.TaskGroup,
    ) -> None:
        async for number, line in lines:
            if self._stop_at is not None:
                return
            self.read = number
            answers.put_nowait(tasks.create_task(self._answer(number, line)))
            await self._unanswered.acquire()

    async def _answer(self, number: int, line: bytes) -> Answer:
        try:
            request = _parse(line)
            async with self._places:
                session = await self._until_stopped(self._open(request))
            if self._wait and session.status not in _SETTLED and self._stop_at is None:
                session = await self._settled(session)
        except _NotDone as not_done:
            answer = {"line": number, "error": {"field": "", "reason": str(not_done)}}
        except InvalidRequest as error:
            answer = {"line": number, "error": {"field": error.field, "reason": error.reason}}
        except ServiceError as error:
            self.trouble = self.trouble or error
            answer = {"line": number, "error": {"field": "", "reason": f"may not have been accepted: {error}"}}
        except GuestledgerError as error:
            answer = {"line": number, "error": {"field": "", "reason": str(error)}}
        else:
            answer = {"line": number, **self._told(session)}
        self.short += answer.get("status") != Status.ACTIVE
        self._answered()
        return answer

    async def _open(self, request: GuestRequest) -> Session:
        if self.trouble is None:
            try:
                return await self._ledger.open_session(request)
            except ServiceError as error:
                self.trouble = self.trouble or error
                if error.accepted is None:
                    # It may have gone in all the same: to accept it once more could open a second session for the guest.
                    raise
                return await self._ledger.session(error.accepted)
        # CXone cannot be used: what can still be done for a guest is to accept the request.
        return await self._ledger.accept(request)

    async def _until_stopped(self, opening: Coroutine[Any, Any, Session]) -> Session:
        if self._stop_at is not None:
            opening.close()
            self.left += 1
            raise _NotDone("not accepted: `open` was told to stop")
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._in_flight.add(limit)
                return await opening
        except TimeoutError:
            if not limit.expired():
                raise
            self.cut_off += 1
            raise _NotDone("may have been accepted: `open` was told to stop, and could not end it in time") from None
        finally:
            self._in_flight.discard(limit)

    async def _settled(self, session: Session) -> Session:
        settled = self._waiting.setdefault(session.id, asyncio.Event())
        await settled.wait()
        if self._stop_at is not None:
            return session
        try:
            return await self._ledger.session(session.id)
        except ServiceError as error:
            self.trouble = self.trouble or error
            return session

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            self.trouble = self.trouble or self._ledger.scheduler.trouble
            if self.trouble is not None:
                done = list(self._waiting)
            elif self._waiting:
                wanted = SessionFilter(ids=tuple(self._waiting), statuses=_SETTLED)
                try:
                    done = [row.id async for row in self._ledger.sessions(wanted)]
                except GuestledgerError as error:
                    self.trouble = error
                    continue
            else:
                continue
            for session_id in done:
                self._waiting.pop(session_id).set()

    def _told(self, session: Session) -> Answer:
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
            answer["error"] = {"field": _field(session), "reason": session.reason}
        else:
            answer |= {"retryAt": session.retry_at, "reason": session.reason}
        return answer


def _parse(line: bytes) -> GuestRequest:
    if len(line) > MAX_LINE:
        raise InvalidRequest("", f"is longer than {MAX_LINE} bytes")
    return parse_request(line)


def _field(session: Session) -> str:
    """The field of the request that keeps the session from being opened, where it is one of them."""
    if session.status is Status.REFUSED:
        return "consent"
    if session.status is Status.REJECTED and not session.channel_validated:
        return "channelId"
    return ""


async def numbered_lines(file: BinaryIO) -> AsyncIterator[Line]:
    """The lines of `file` with their numbers, from 1 on; blank ones are passed over, over-long ones are cut short."""
    number = 0
    while line := await _aside(partial(file.readline, MAX_LINE + 1)):
        number += 1
        rest = line
        while len(rest) > MAX_LINE and not rest.endswith(b"\n"):
            rest = await _aside(partial(file.readline, MAX_LINE + 1))
        line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if line.strip():
            yield number, line


async def _aside(read: Callable[[], bytes]) -> bytes:
    """What `read` returns, from a thread that the end of the process does not wait for, as it would for an executor's."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[bytes] = loop.create_future()

    def tell(result: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits for it any more
            loop.call_soon_threadsafe(lambda: None if done.done() else result())

    def work() -> None:
        try:
            line = read()
        except Exception as error:  # noqa: BLE001 - whoever waits for it is to have it
            tell(partial(done.set_exception, error))
        else:
            tell(partial(done.set_result, line))

    Thread(target=work, daemon=True).start()
    return await done


def count_lines(file: BinaryIO) -> int | None:
    """How many lines `file` has, when it can be read again from its beginning."""
    with suppress(OSError, ValueError):
        if file.seekable():
            number = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))
            file.seek(0)
            return number
    return None
