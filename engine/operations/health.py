"""Health: whether a ledger can work now, for a host's own endpoint."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.due import DueStep
from guestledger.engine.domain.errors import GuestledgerError, ServiceError
from guestledger.engine.limits.admission import Denied
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.key_vault import KeyVault

_ANSWER_SECONDS = 2.0


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a ledger, without secrets or personal data. `database`, `key_vault` and `scheduler` are one line each.

    The numbers count over all processes. They are `None` if the database did not answer, or its user may not read them.
    """

    database: str | None
    """Why the database cannot be used; `None`: it answers."""
    key_vault: str | None = None
    """Why the database of the key vault cannot be used; `None`: it answers, or is the ledger's own."""
    scheduler_runs: bool
    """Whether a scheduler runs in this process."""
    scheduler: str | None
    """The last service error of the scheduler, or `None`."""
    limiters: Mapping[str, Denied] | None = None
    """The limiters that are closed or whose circuit is open, by name."""
    backlog: int | None = None
    """Accepted sessions without an outcome. Not counted: parked ones."""
    backlog_seconds: float | None = None
    """How long the oldest of them has waited; 0: none waits."""
    oldest_due: DueStep | None = None
    """The free step that is due for longest, if any."""
    owed_webhooks: int | None = None
    """Notices that are still to be delivered."""
    projection_lag_seconds: float | None = None
    """The age of the oldest event that a projection lacks; 0: none lacks one."""
    stopped_projections: tuple[str, ...] | None = None
    """Projections that stopped at a poison event."""


async def health(adapters: Adapters, *, scheduler_runs: bool, trouble: ServiceError | None) -> Health:
    """Return the health, within seconds. Does not raise."""
    key_vault, found = await asyncio.gather(_vault_trouble(adapters.vault), _found(adapters))
    return Health(
        key_vault=key_vault,
        scheduler_runs=scheduler_runs,
        scheduler=None if trouble is None else str(trouble),
        **found,
    )


async def _found(adapters: Adapters) -> dict[str, Any]:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await adapters.store.check()
            return {"database": None, **await _projected(adapters), **await _waiting(adapters)}
    except TimeoutError:
        return {"database": f"the database has not answered for {_ANSWER_SECONDS:g} s"}
    except GuestledgerError as error:
        return {"database": str(error)}


async def _vault_trouble(vault: KeyVault) -> str | None:
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await vault.check()
    except TimeoutError:
        return f"the key vault has not answered for {_ANSWER_SECONDS:g} s"
    except ServiceError as error:
        return None if error.cause is Cause.NOT_CONFIGURED else str(error)  # a reader without a key needs none
    return None


async def _projected(adapters: Adapters) -> dict[str, Any]:
    projections = await adapters.read_models.status()
    return {
        "projection_lag_seconds": max((status.lag_seconds for status in projections), default=0.0),
        "stopped_projections": tuple(status.name for status in projections if status.error is not None),
    }


async def _waiting(adapters: Adapters) -> dict[str, Any]:
    try:
        backlog, states = await adapters.due_steps.backlog(), await adapters.limiter.states()
    except ServiceError as error:
        if error.cause is Cause.FORBIDDEN:  # an auditor reads the log and what is derived from it
            return {}
        raise
    now, oldest = backlog.now, backlog.oldest_accepted_at
    outages = {name: state.outage(now) for name, state in states.items()}
    return {
        "limiters": {name: denied for name, denied in outages.items() if denied is not None},
        "backlog": backlog.waiting,
        "backlog_seconds": 0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()),
        "oldest_due": backlog.oldest_due,
        "owed_webhooks": backlog.owed_webhooks,
    }
