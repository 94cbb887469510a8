"""Early warning: the sessions whose tokens will soon expire, so that a host can renew or say goodbye in time.

Read from the `sessions` projection and not from due work: a session whose webhook is still to be taken has that as its next
step, and its expiry stands nowhere in the due work until then.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from guestledger.engine.domain.errors import ServiceError
from guestledger.engine.domain.session import Status
from guestledger.engine.ports import Clock, ReadModels
from guestledger.engine.projections.sessions import SessionFilter, SessionRow

logger = logging.getLogger("guestledger")

_MAX_PAUSE = timedelta(minutes=1)
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)
_SHORTEST_PAUSE = timedelta(milliseconds=100)


async def expiring_in(read_models: ReadModels, clock: Clock, span: timedelta) -> list[SessionRow]:
    """The active sessions whose token has not expired yet and will within `span`, the next to expire first.

    Raises `ValueError` for a `span` of nothing or less.
    """
    _check("span", span)
    await read_models.catch_up()
    now = clock.now()
    until = now + span if span < _END_OF_TIME - now else None  # what expires later than that cannot be written down
    wanted = SessionFilter(statuses=(Status.ACTIVE,), expires_after=now, expires_until=until)
    rows = [row async for row in read_models.sessions(wanted)]
    return sorted(rows, key=lambda row: (row.expires_at, row.id))


def expiry_warnings(read_models: ReadModels, clock: Clock, ahead: timedelta) -> AsyncIterator[SessionRow]:
    """Each session once, as soon as its token expires within `ahead`; for ever, whatever becomes of the database meanwhile.

    The first look is at once, and each pause shorter than `ahead` (of 0.2 s or more). A token that begins and expires between
    two looks is never told of: see `Ledger.expiry_warnings`. Raises `ValueError` for an `ahead` of nothing or less.
    """
    _check("ahead", ahead)
    return _warnings(read_models, clock, ahead)


async def _warnings(read_models: ReadModels, clock: Clock, ahead: timedelta) -> AsyncIterator[SessionRow]:
    pause = _pause(ahead).total_seconds()
    told: set[UUID] = set()
    while True:
        try:
            rows = await expiring_in(read_models, clock, ahead)
        except ServiceError as error:
            logger.warning("the sessions that will expire soon cannot be read now: %s", error)
        else:
            for row in rows:
                if row.id not in told:
                    yield row
            told = {row.id for row in rows}  # an expiry never moves, so who is no longer among them never comes again
        await asyncio.sleep(pause * (0.5 + clock.jitter()))


def _check(name: str, span: timedelta) -> None:
    if span <= timedelta(0):
        raise ValueError(f"{name} must be longer than nothing, but is {span}")


def _pause(ahead: timedelta) -> timedelta:
    """From one look to the next, of which the caller takes 0.5 to 1.5: so that nobody expires within `ahead` unseen."""
    often_enough = max(ahead / 10, min(ahead / 2, timedelta(seconds=1)))
    return max(min(often_enough, _MAX_PAUSE), _SHORTEST_PAUSE)
