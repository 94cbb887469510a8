"""`ledger.checks`: what a process asks before it works, and a monitoring system while it does."""

from guestledger.engine.operations.gauges import Gauges, gauges
from guestledger.engine.ports.adapters import Adapters


class Checks:
    """Checks of the services that a ledger needs. For a host's own endpoint, see `Ledger.health`."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    async def provider(self) -> None:
        """Check that the provider can be used now.

        Raises `CredentialsRefused` or `ServiceUnreachable`; if a limiter denies the token request, its subclass
        `RequestDenied`.
        """
        await self._adapters.provider.ready()

    async def databases(self) -> None:
        """Check that the database and the key vault answer now. Raises `ServiceError`."""
        await self._adapters.store.head()
        await self._adapters.vault.check()

    async def gauges(self) -> Gauges:
        """Return the numbers that all processes share, as `metrics_text` shows them.

        Raises `ServiceError`, also for a user who may not read due work.
        """
        return await gauges(self._adapters)
