"""A database backed up and restored under running processes: they lose their connections, and find the older log."""

import asyncio
from types import TracebackType
from typing import Any, Self

import asyncpg
from sqlalchemy import make_url

from tests.postgres import as_administrator


class Backup:
    """`async with Backup(url) as backup`: a copy of the database of `url` as it is now; `restore` puts it back."""

    def __init__(self, url: str) -> None:
        self._url = make_url(as_administrator(url)).set(drivername="postgresql")
        self._name = str(self._url.database)
        self._copy = f"{self._name}_backup"
        self._server: Any = None

    async def __aenter__(self) -> Self:
        elsewhere = self._url.set(database="postgres").render_as_string(hide_password=False)
        self._server = await asyncpg.connect(elsewhere)
        await self._copy_of(self._name, self._copy)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        await self._server.execute(f'DROP DATABASE IF EXISTS "{self._copy}" WITH (FORCE)')
        await self._server.close()

    async def restore(self) -> None:
        """Replace the database by the copy."""
        await self._server.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false')
        await self._server.execute(f'DROP DATABASE "{self._name}" WITH (FORCE)')
        await self._copy_of(self._copy, self._name)

    async def _copy_of(self, source: str, copy: str) -> None:
        await self._server.execute(f'ALTER DATABASE "{source}" ALLOW_CONNECTIONS false')
        gone = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1"
        while await self._server.fetch(gone, source):
            await asyncio.sleep(0.05)
        await self._server.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{source}" STRATEGY file_copy')
        await self._server.execute(f'ALTER DATABASE "{source}" ALLOW_CONNECTIONS true')
