"""The only module that imports every adapter: it puts a ledger together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncEngine

from guestledger.adapters.clock import DatabaseClock
from guestledger.adapters.consent_terms import warn_if_open
from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.database import data_dir, keep_embedded_started, locate_database
from guestledger.adapters.erasure_journal import FileJournal, check_erasures
from guestledger.adapters.keys import open_vault
from guestledger.adapters.outbound import open_provider, open_webhook, policy_of, with_doubt
from guestledger.adapters.postgres.access_keys import PostgresAccessKeys
from guestledger.adapters.postgres.admin.partitions import PostgresPartitions
from guestledger.adapters.postgres.admin.privileges import check_privileges
from guestledger.adapters.postgres.admin.revision import check_current
from guestledger.adapters.postgres.codecs import check_codecs
from guestledger.adapters.postgres.errors import NotAllowed
from guestledger.adapters.postgres.limits.rate_limiter import PostgresRateLimiter
from guestledger.adapters.postgres.log.consumers import PostgresConsumers
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.log.verification import LogVerifier
from guestledger.adapters.postgres.personal.erasures import PostgresErasures
from guestledger.adapters.postgres.personal.legal_holds import PostgresLegalHolds
from guestledger.adapters.postgres.personal.personal_data import PersonalData
from guestledger.adapters.postgres.pool import close_engine, lent_engine, open_engine
from guestledger.adapters.postgres.projections.read_models import PostgresReadModels
from guestledger.adapters.postgres.projections.session_finder import PostgresSessionFinder
from guestledger.adapters.postgres.transactions import read_time
from guestledger.adapters.postgres.work.due_steps import PostgresDueSteps
from guestledger.adapters.settings import Settings
from guestledger.adapters.telemetry.instruments import Instruments
from guestledger.engine.domain.policy import Policy
from guestledger.engine.ledger import Ledger
from guestledger.engine.log.appends import Lease
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.erasures import ErasureJournal, ErasureStore
from guestledger.engine.ports.telemetry import Telemetry
from guestledger.engine.worker.calls import CallLimit
from guestledger.engine.worker.executor import Executor
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.outages import OutageReporter
from guestledger.engine.worker.recorder import Recorder
from guestledger.engine.worker.retention import RetentionPlanner
from guestledger.engine.worker.scheduler import Scheduler
from guestledger.engine.worker.step import Services
from guestledger.engine.worker.steps import load_handlers

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
    """Open the ledger of these settings.

    With `scheduler`, due steps run beside the caller until the block ends; what is in flight then may finish within
    `settings.drain_seconds`. Without it, pending sessions and webhooks wait for a worker. The embedded database is started
    and upgraded if no other is named; any other must be at this release's revision.

    With `engine`, the host's own pool (SQLAlchemy, asyncpg) replaces `settings.database_url` and is never disposed of.
    The ledger uses transactions of its own: what it records stays, whatever the host rolls back. It holds no connection
    while it waits for the provider, a webhook, a handler, or between the rows that it yields. For connections outside
    the pool, see `docs/embedding.md`.

    The database user must not be able to change the log: a member of the runtime role, or without `scheduler` of the auditor
    role for reading. `settings.allow_owner` accepts any user.

    Raises `InvalidSettings`, `UnfitEngine`, `TooManyPrivileges`, `ErasuresMissing` after an older backup was restored, or
    `ServiceError` if the database or the key vault cannot be used, as with another key-encryption key than the ledger's. The
    provider is not called yet.
    """
    if scheduler and settings.cxone_url is not None:
        settings.require_cxone()
    async with AsyncExitStack() as stack:
        embedded = engine is None and settings.database_url is None
        engine = await _engine(settings, engine, stack)
        await check_current(engine, settings.schema)
        await check_privileges(engine, settings.schema, allow_owner=settings.allow_owner, works=scheduler)
        vault = await open_vault(settings, engine, stack, embedded=embedded, required=scheduler)
        personal = PersonalData(engine, settings.schema, vault)
        erasures = PostgresErasures(engine, settings.schema, personal)
        journal = None if settings.erasure_journal is None else FileJournal(settings.erasure_journal)
        if journal is not None:
            await _check_journal(journal, erasures, works=scheduler)
        clock = await stack.enter_async_context(_clock(engine))
        policy = policy_of(policy, with_doubt(profile, settings.cxone_in_doubt or policy.creation.in_doubt), settings)
        if scheduler:
            warn_if_open(policy.consent_terms)
        telemetry = Instruments(_place(engine, settings.schema))
        outages = OutageReporter(clock=clock, policy=policy)
        limiter = PostgresRateLimiter(engine, settings.schema, policy.limiter, changed=outages.limiter_changed)
        services = Services(
            provider=await open_provider(settings, profile, limiter, policy, clock, telemetry, stack),
            webhook=await open_webhook(settings, clock, telemetry, stack),
            limiter=limiter,
            holds=PostgresLegalHolds(engine, settings.schema),
            clock=clock,
            policy=policy,
            calls=CallLimit(policy.limiter.calls_per_process),
            outages=outages,
        )
        ledger = _ledger(engine, settings, personal, erasures, journal, limiter, services, telemetry, stack)
        if scheduler:
            await stack.enter_async_context(_running(ledger.scheduler))
        yield ledger


async def _check_journal(journal: FileJournal, erasures: ErasureStore, *, works: bool) -> None:
    try:
        await check_erasures(journal, erasures)
    except NotAllowed:
        if works:
            raise  # only an auditor may not read what an erasure deletes


def _ledger(
    engine: AsyncEngine,
    settings: Settings,
    personal: PersonalData,
    erasures: ErasureStore,
    journal: ErasureJournal | None,
    limiter: PostgresRateLimiter,
    services: Services,
    telemetry: Telemetry,
    stack: AsyncExitStack,
) -> Ledger:
    schema, clock, policy = settings.schema, services.clock, services.policy
    lease = Lease(owner=uuid4(), ms=LEASE_MS)
    store = PostgresEventStore(engine, schema, limiter, personal, policy, telemetry=telemetry)
    due_steps = PostgresDueSteps(engine, schema, limiter, lease_ms=lease.ms)
    partitions = PostgresPartitions(engine, schema)
    read_models = PostgresReadModels(engine, schema)
    leases = Leases(due_steps, lease.ms)
    recorder = Recorder(store=store, due_steps=due_steps, limiter=limiter, clock=clock, policy=policy)
    # In this order: no lease is released before the last append is recorded, and leases are kept until then.
    stack.push_async_callback(leases.close)
    stack.push_async_callback(store.close)
    stack.push_async_callback(recorder.close)
    executor = Executor(
        handlers=load_handlers(services), recorder=recorder, clock=clock, policy=policy, telemetry=telemetry
    )
    scheduler = Scheduler(
        store=store,
        due_steps=due_steps,
        partitions=partitions,
        read_models=read_models,
        retention=RetentionPlanner(read_models=read_models, due_steps=due_steps, clock=clock, policy=policy),
        erasures=erasures,
        executor=executor,
        leases=leases,
        lease=lease,
        limiter=limiter,
        outages=services.outages,
        calls=services.calls,
        clock=clock,
        drain_seconds=settings.drain_seconds,
    )
    adapters = Adapters(
        store=store,
        verifier=LogVerifier(engine, schema),
        due_steps=due_steps,
        consumers=PostgresConsumers(engine, schema),
        erasures=erasures,
        journal=journal,
        partitions=partitions,
        read_models=read_models,
        finder=PostgresSessionFinder(engine, schema),
        personal=personal,
        provider=services.provider,
        limiter=limiter,
        vault=personal.vault,
        holds=services.holds,
        access_keys=PostgresAccessKeys(engine, schema),
        clock=clock,
        telemetry=telemetry,
    )
    return Ledger(adapters, executor=executor, scheduler=scheduler, leases=leases, lease=lease, policy=policy)


def _place(engine: AsyncEngine, schema: str) -> dict[str, str | int]:
    """Where the log is, as attributes of spans. Without user and password."""
    url = engine.url
    place = {
        "db.system.name": "postgresql",
        "db.namespace": f"{url.database}|{schema}",
        "db.collection.name": "events",
        "server.address": url.host or url.query.get("host"),
        "server.port": url.port,
    }
    return {name: value for name, value in place.items() if isinstance(value, str | int)}


async def _engine(settings: Settings, lent: AsyncEngine | None, stack: AsyncExitStack) -> AsyncEngine:
    if lent is not None:
        engine = lent_engine(lent, settings.schema)
        await check_codecs(engine)
        return engine
    engine = open_engine(await locate_database(settings), settings.schema, pool_size=settings.database_connections)
    if settings.database_url is None:
        keep_embedded_started(engine, data_dir(settings))
    stack.push_async_callback(close_engine, engine)
    return engine


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
