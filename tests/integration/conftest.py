"""A ledger in a test database, reached through the adapters and by plain SQL."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Self

import asyncpg
import pytest
import pytest_asyncio
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.due import StepName
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import RetryPolicy
from tests import logs, postgres
from tests.integration.plain_sql import EMPTY, SCHEMA, connect_plainly
from tests.keys import KEY, personal_data
from tests.limits import BRISK

pytest.register_assert_rewrite("tests.integration.by_hand", "tests.integration.decision_replay")

OpenEngine = Callable[..., AsyncEngine]
Sql = Callable[..., Awaitable[list[asyncpg.Record]]]
NewLogin = Callable[..., Awaitable[str]]
NewLedger = Callable[..., contextlib.AbstractAsyncContextManager[Ledger]]

PROJECTED_EVENTS = 1_000
"""In the log of `projected_log`."""

AT_ONCE = Policy(creation=RetryPolicy(base_ms=0), webhook=DeliveryPolicy(waits_ms=(0, 0)), limiter=BRISK)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_database_url(runtime_server: str, migrated_template: str) -> AsyncIterator[str]:
    """One database for all tests that need none of their own: creating one takes longer than most tests."""
    async with postgres.new_database(runtime_server, migrated_template) as url:
        yield url


@pytest.fixture
async def emptied_database_url(shared_database_url: str) -> str:
    connection = await connect_plainly(shared_database_url)
    await connection.execute(EMPTY)
    await connection.close()
    return shared_database_url


@pytest.fixture
def ledger_url(request: pytest.FixtureRequest) -> str:
    """A database with an empty ledger: the shared one, or the test's own if it uses `database_url`."""
    own = "database_url" in request.fixturenames
    return str(request.getfixturevalue("database_url" if own else "emptied_database_url"))


@pytest.fixture
async def connect_by_sql(ledger_url: str) -> AsyncIterator[Callable[[], Awaitable[asyncpg.Connection]]]:
    """Open another connection by plain SQL, as an administrator; it is closed at the end."""
    opened: list[asyncpg.Connection] = []

    async def connect() -> asyncpg.Connection:
        opened.append(await connect_plainly(ledger_url))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@pytest.fixture
async def outsider(connect_by_sql: Any) -> asyncpg.Connection:
    """A connection by plain SQL, as an administrator."""
    return await connect_by_sql()


@pytest.fixture
async def sql(outsider: asyncpg.Connection) -> Sql:
    """`await sql(statement, *values)`: the rows, by plain SQL."""
    return outsider.fetch


@pytest.fixture
async def runtime(ledger_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection by plain SQL, as the ledger's own user."""
    connection = await asyncpg.connect(ledger_url.replace("+asyncpg", ""))
    yield connection
    await connection.close()


@pytest.fixture
async def new_login_at(postgres_server: str) -> AsyncIterator[NewLogin]:
    """`await new_login_at(url, options)`: create a user with these options of CREATE ROLE, and return the database's URL
    for that user. It is dropped at the end.
    """
    async with contextlib.AsyncExitStack() as stack:

        async def new(url: str, options: str = "") -> str:
            return await stack.enter_async_context(postgres.new_login(postgres.as_administrator(url), options))

        yield new


@pytest.fixture
async def new_engine(ledger_url: str) -> AsyncIterator[OpenEngine]:
    """Open a pool on the test's database, as another process would; it is closed at the end."""
    opened: list[AsyncEngine] = []

    def new(url: str = ledger_url, *, schema: str = SCHEMA, pool_size: int = 8) -> AsyncEngine:
        opened.append(open_engine(url, schema, pool_size=pool_size))
        return opened[-1]

    yield new
    for engine in opened:
        await engine.dispose()


@pytest.fixture
async def new_store(new_engine: OpenEngine) -> AsyncIterator[Callable[..., PostgresEventStore]]:
    """Open another event store, with a pool of its own."""
    opened: list[PostgresEventStore] = []

    def new(limits: LimiterPolicy = LimiterPolicy()) -> PostgresEventStore:
        engine = new_engine()
        opened.append(
            PostgresEventStore(
                engine, SCHEMA, PostgresRateLimiter(engine, SCHEMA, limits), personal_data(engine, SCHEMA), Policy()
            )
        )
        return opened[-1]

    yield new
    for store in opened:
        await store.close()


@pytest.fixture
def store(new_store: Callable[..., PostgresEventStore]) -> PostgresEventStore:
    return new_store()


@pytest.fixture
def new_due_steps(new_engine: OpenEngine) -> Callable[..., PostgresDueSteps]:
    """Open the due steps again, with a pool of their own."""

    def new(limits: LimiterPolicy = LimiterPolicy()) -> PostgresDueSteps:
        engine = new_engine()
        return PostgresDueSteps(engine, SCHEMA, PostgresRateLimiter(engine, SCHEMA, limits))

    return new


@pytest.fixture
def due_steps(new_due_steps: Callable[..., PostgresDueSteps]) -> PostgresDueSteps:
    return new_due_steps()


@pytest.fixture
def new_read_models(new_engine: OpenEngine) -> Callable[[], PostgresReadModels]:
    """Open the projections again, with a pool of their own."""
    return lambda: PostgresReadModels(new_engine(), SCHEMA)


@pytest.fixture
def read_models(new_read_models: Callable[[], PostgresReadModels]) -> PostgresReadModels:
    return new_read_models()


@pytest.fixture
async def projected_log(database_url: str, read_models: PostgresReadModels) -> None:
    """A log of `PROJECTED_EVENTS` events in a database of its own, with which the projections have caught up."""
    await logs.write(database_url, PROJECTED_EVENTS)
    await read_models.catch_up()


class HeldLog:
    """The ledger's lock, held by another client: every append waits until it is released."""

    def __init__(self, holder: asyncpg.Connection, watcher: asyncpg.Connection) -> None:
        self._transaction = holder.transaction()
        self._holder = holder
        self._watcher = watcher

    async def __aenter__(self) -> Self:
        await self._transaction.start()
        await self._holder.execute("SELECT FROM head WHERE id = 1 FOR UPDATE")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._transaction.rollback()

    async def waiting(self) -> int:
        """The process id of the backend that waits for the lock, once there is one."""
        async with asyncio.timeout(30):
            while True:
                found = await self._watcher.fetch(
                    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                )
                if found:
                    return int(found[0]["pid"])
                await asyncio.sleep(0.005)


@pytest.fixture
async def held_log(connect_by_sql: Any, outsider: asyncpg.Connection) -> HeldLog:
    """`async with held_log`: no append is committed within the block."""
    return HeldLog(await connect_by_sql(), outsider)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """CXone and the webhook receiver, over real HTTP."""
    async with Simulator() as running:
        yield running


@pytest.fixture
def new_ledger(ledger_url: str, simulator: Simulator) -> NewLedger:
    """`async with new_ledger(…)`: the ledger, as another process would open it, by default without a scheduler.

    Retries are immediate, and a webhook is sent only with `webhook_url`. Other settings go in by name.
    """

    def new(
        *,
        policy: Policy = AT_ONCE,
        profile: Profile = Profile(token_backoff_ms=1),
        scheduler: bool = False,
        engine: AsyncEngine | None = None,
        **given: Any,
    ) -> contextlib.AbstractAsyncContextManager[Ledger]:
        plain = {
            "database_url": ledger_url,
            "encryption_key": KEY,
            "cxone_url": simulator.url,
            "cxone_client_id": simulator.client_id,
            "cxone_client_secret": simulator.client_secret,
            "webhook_allow_private": True,
        }
        settings = Settings(**{**plain, **given})
        return connect(settings, policy=policy, profile=profile, scheduler=scheduler, engine=engine)

    return new


def webhook_of(ledger: Ledger) -> Any:
    """What sends the ledger's notices."""
    return ledger._opener._executor.handlers[StepName.DELIVER_WEBHOOK]._webhook  # type: ignore[attr-defined]


@pytest.fixture
async def ledger(new_ledger: NewLedger) -> AsyncIterator[Ledger]:
    async with new_ledger() as opened:
        yield opened
