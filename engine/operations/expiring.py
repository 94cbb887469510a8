"""Sessions whose tokens expire soon, from the `sessions` projection."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.session import Status
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.projections.sessions import SessionFilter, SessionRow

logger = logging.getLogger("guestledger")

_MAX_PAUSE = timedelta(minutes=1)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_MIN_PAUSE = timedelta(milliseconds=100)


async def expiring_in(read_models: ReadModels, clock: Clock, span: timedelta) -> list[SessionRow]:
    """See `Projections.expiring_in`."""
    _check("span", span)
    await read_models.catch_up()
    now = clock.now()
    until = now + span if span < _END_OF_TIME - now else None  # a later time does not exist
    wanted = SessionFilter(statuses=(Status.ACTIVE,), expires_after=now, expires_until=until)
    rows = [row async for row in read_models.sessions(wanted)]
    return sorted(rows, key=lambda row: (row.expires_at, row.id))


def expiry_warnings(read_models: ReadModels, clock: Clock, ahead: timedelta) -> AsyncIterator[SessionRow]:
    """See `Projections.expiry_warnings`."""
    _check("ahead", ahead)
    return _warnings(read_models, clock, ahead)


async def _warnings(read_models: ReadModels, clock: Clock, ahead: timedelta) -> AsyncIterator[SessionRow]:
    pause = _pause(ahead).total_seconds()
    warned: set[UUID] = set()
    while True:
        try:
            rows = await expiring_in(read_models, clock, ahead)
        except ServiceError as error:
            logger.warning("the sessions that will expire soon cannot be read now: %s", error)
        else:
            for row in rows:
                if row.id not in warned:
                    yield row
            warned = {row.id for row in rows}  # an expiry never moves, so a session that left does not return
        await asyncio.sleep(pause * (0.5 + clock.jitter()))


def _check(name: str, span: timedelta) -> None:
    if span <= timedelta(0):
        raise ValueError(f"{name} must be positive, but is {span}")


def _pause(ahead: timedelta) -> timedelta:
    """The pause between two looks, of which the caller takes 0.5 to 1.5."""
    often_enough = max(ahead / 10, min(ahead / 2, timedelta(seconds=1)))
    return max(min(often_enough, _MAX_PAUSE), _MIN_PAUSE)
