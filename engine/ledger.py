"""The ledger: the object that an embedder holds."""

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from uuid import UUID

from guestledger.engine.domain.commands import OpenSession
from guestledger.engine.domain.errors import IdempotencyConflict, ServiceError
from guestledger.engine.domain.events import ConsentRecorded, ConsentRefused
from guestledger.engine.domain.guest_filter import GuestFilter, GuestHashes
from guestledger.engine.domain.lifecycle import decide
from guestledger.engine.domain.outcomes import Resolution
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.repeated import differing_fields
from guestledger.engine.domain.request import GuestRequest, checked, checked_correlation_id
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import KeyTaken, Lease
from guestledger.engine.log.recorded import RecordedEvent, RecordedPolicy
from guestledger.engine.operations.access import Access
from guestledger.engine.operations.consent_record import ConsentRecord, consent_record
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.erase import ErasureCertificate, Erasures
from guestledger.engine.operations.events import Events
from guestledger.engine.operations.explain import Explainer, Explanation
from guestledger.engine.operations.export import Exporter, PersonExport
from guestledger.engine.operations.find import Finder, Findings
from guestledger.engine.operations.gauges import Gauges, gauges
from guestledger.engine.operations.health import Health, health
from guestledger.engine.operations.histories import Histories
from guestledger.engine.operations.limits import Limits
from guestledger.engine.operations.partitions import Partitions
from guestledger.engine.operations.projections import Projections
from guestledger.engine.operations.redeliver import Webhooks
from guestledger.engine.operations.resolve import Resolver
from guestledger.engine.operations.retention import Retention
from guestledger.engine.operations.reveal import PAGE, Look, Reveal, pages
from guestledger.engine.operations.what_if import WhatIfs
from guestledger.engine.operations.withdraw import Withdrawal, Withdrawals
from guestledger.engine.ports.access_keys import AccessKeys
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.consumers import ConsumerCheckpoints
from guestledger.engine.ports.due_steps import DueSteps
from guestledger.engine.ports.erasures import ErasureJournal, ErasureStore
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.key_vault import KeyVault
from guestledger.engine.ports.legal_holds import LegalHolds
from guestledger.engine.ports.log_verifier import LogVerifier
from guestledger.engine.ports.partitions import Partitions as PartitionsPort
from guestledger.engine.ports.personal_data import PersonalData
from guestledger.engine.ports.provider import Provider
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.ports.session_finder import FindFilter, SessionFinder
from guestledger.engine.ports.telemetry import Telemetry
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import DailyMetrics, HourlyOutcomes, Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.replay.findings import WhatIf
from guestledger.engine.replay.timeline import Frame, timeline
from guestledger.engine.replay.what_if import PolicyChange
from guestledger.engine.replay.what_if_summary import WhatIfSummary
from guestledger.engine.worker.executor import Executor
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.scheduler import Scheduler
from guestledger.engine.worker.session_work import SessionWork, session_of
from guestledger.engine.worker.step import Lane


class Ledger:
    """Opens guest sessions and shows what happened in each.

    Methods take the engine's or the provider's session id. More is in `scheduler`, `events`, `webhooks`, `projections`,
    `limits`, `partitions`, `erasures`, `retention` and `access`.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        verifier: LogVerifier,
        due_steps: DueSteps,
        consumers: ConsumerCheckpoints,
        erasures: ErasureStore,
        journal: ErasureJournal | None,
        partitions: PartitionsPort,
        read_models: ReadModels,
        sessions: SessionFinder,
        personal: PersonalData,
        provider: Provider,
        limiter: RateLimiter,
        vault: KeyVault,
        holds: LegalHolds,
        access_keys: AccessKeys,
        executor: Executor,
        scheduler: Scheduler,
        leases: Leases,
        lease: Lease,
        clock: Clock,
        policy: Policy,
        telemetry: Telemetry,
    ) -> None:
        decisions = Decisions(store=store, clock=clock, policy=policy)
        histories = Histories(store=store, read_models=read_models)
        self.telemetry = telemetry
        """What was counted in this process: see `metrics_text`."""
        self.scheduler = scheduler
        self.events = Events(store=store, verifier=verifier, consumers=consumers, clock=clock)
        self.webhooks = Webhooks(store=store, histories=histories, decisions=decisions, policy=policy)
        self.projections = Projections(read_models=read_models, clock=clock)
        self.limits = Limits(limiter)
        self.partitions = Partitions(partitions)
        self.access = Access(access_keys, personal, clock)
        self.retention = Retention(
            store=store,
            read_models=read_models,
            histories=histories,
            decisions=decisions,
            holds=holds,
            personal=personal,
            clock=clock,
            policy=policy,
        )
        self.erasures = Erasures(
            erasures=erasures,
            journal=journal,
            store=store,
            histories=histories,
            decisions=decisions,
            retention=self.retention,
            personal=personal,
            clock=clock,
        )
        self._store = store
        self._due_steps = due_steps
        self._consumers = consumers
        self._limiter = limiter
        self._vault = vault
        self._read_models = read_models
        self._personal = personal
        self._provider = provider
        self._executor = executor
        self._leases = leases
        self._clock = clock
        self._policy = policy
        self._lease = lease
        self._actor = f"open_session {lease.owner}"
        self._histories = histories
        self._exporter = Exporter(
            store=store, histories=histories, personal=personal, clock=clock, retention_days=policy.retention_days
        )
        self._withdrawals = Withdrawals(personal=personal, histories=histories, decisions=decisions)
        self._resolver = Resolver(decisions=decisions, read_models=read_models)
        self._finder = Finder(sessions=sessions, read_models=read_models, personal=personal)
        self._what_ifs = WhatIfs(store=store, histories=histories, clock=clock, policies=self.policies)
        self._explainer = Explainer(
            store=store, due_steps=due_steps, limiter=limiter, holds=holds, handlers=executor.handlers, policy=policy
        )

    async def open_session(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Accept `request`, go as far as possible at once, and return the session.

        It is active, refused, rejected or abandoned; or pending until `retry_at`, and a scheduler continues.
        `correlation_id` (default: the session id) is stored with every event.

        Raises `InvalidRequest` (nothing was recorded), `IdempotencyConflict` if the key was used for another channel,
        subject or consent, `EventTooLarge`, and `ServiceError` if the provider or the database cannot be used: the
        session in its `accepted`, if any, stays pending. For a known key also `PartitionDetached` and `UnknownEvent`,
        if its session cannot be read.
        """
        return await self._open(request, Lane.CREATION, correlation_id)

    async def accept(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Record `request` and leave the rest to a scheduler. Raises as `open_session` does."""
        return await self._open(request, None, correlation_id)

    async def _open(self, request: GuestRequest, lane: Lane | None, correlation_id: str | None) -> Session:
        session = Session(id=self._clock.new_id())
        with self.telemetry.opening(session.id) as opening:
            opened = await self._accept(session, request, lane, correlation_id)
            opening.came_to(opened)
            return opened

    async def _accept(
        self, session: Session, request: GuestRequest, lane: Lane | None, correlation_id: str | None
    ) -> Session:
        work = SessionWork(
            session,
            actor=self._actor,
            lease=self._lease,
            correlation_id=str(session.id) if correlation_id is None else checked_correlation_id(correlation_id),
            idempotency_key=request.idempotency_key,
        )
        opened = OpenSession(request=checked(request), now=self._clock.now())
        work.propose(decide(session, opened, self._policy))
        try:
            with self._leases.hold(work.lease, session.id) as work.held:
                return await self._executor.run(work, lane)
        except KeyTaken as taken:
            return await self._repeated(request, taken.stream_id)
        except ServiceError as error:
            raise error.with_accepted(session.id if work.recorded.version else None) from error

    async def _repeated(self, request: GuestRequest, stream_id: UUID) -> Session:
        history = await self._histories.of_stream(stream_id, reveal=True)
        opened = history[0].event
        assert isinstance(opened, ConsentRecorded | ConsentRefused), "every stream starts with the guest's consent"
        if fields := differing_fields(opened, request):
            raise IdempotencyConflict(stream_id, fields)
        return session_of(history)

    async def session(self, session: UUID | str, *, token: bool = False, reveal: Reveal | None = None) -> Session:
        """Return the session as it is now, its personal data `Sealed`. Raises `SessionNotFound`.

        With `token`, the guest's token is in clear, to answer that guest. That is what it is kept for, so it is no look
        at personal data and not recorded. `reveal`: see `history`.
        """
        history = await self.history(session, reveal=reveal)
        if token and (reveal is None or Purpose.ACCESS not in reveal.purposes):
            history = await self._personal.opened(history, (Purpose.ACCESS,))
        return session_of(history)

    async def history(self, session: UUID | str, *, reveal: Reveal | None = None) -> list[RecordedEvent]:
        """Return every event of the session, its personal data `Sealed`. Raises `SessionNotFound`, `PartitionDetached`.

        With `reveal`, personal data is in clear, as far as it was not erased, and the look is recorded before. Then also
        raises `ServiceError` without the key or the privilege.
        """
        history = await self._histories.find(session)
        return history if reveal is None else await self.look(reveal).events(history)

    def look(self, reveal: Reveal) -> Look:
        """Begin a look at personal data, for events and entries that were read before. Each page is recorded, then opened."""
        return Look(reveal, store=self._store, personal=self._personal, clock=self._clock)

    async def replay(self, session: UUID | str, *, reveal: Reveal | None = None) -> list[Frame]:
        """Return a frame for each event: the decision that made it, what it changed, and what the session waited for before.

        Each decision is made again by today's code, under the recorded policies (`policies`). `reveal`: see `history`.
        Raises `SessionNotFound`, `PartitionDetached`, and `UnknownPolicy` for a policy of a newer release.
        """
        history = await self.history(session, reveal=reveal)
        return timeline(history, await self.policies())

    async def what_if(self, session: UUID | str, *, policy: PolicyChange) -> WhatIf:
        """Run the session's history again under another policy, with the outcomes that it holds. Changes and sends nothing.

        `policy` is a whole `Policy`, or the fields that differ from the recorded one: `{"creation": {"max_failures": 3}}`.
        Raises `SessionNotFound`, and `InvalidPolicy`, which names the field, for a change that is no policy.
        """
        return await self._what_ifs.of(session, policy)

    async def what_if_all(
        self,
        *,
        policy: PolicyChange,
        since: datetime | None = None,
        until: datetime | None = None,
        advanced: Callable[[int], None] = lambda _sessions: None,
    ) -> WhatIfSummary:
        """Sum up `what_if` over the sessions that began from `since` on and before `until` (UTC), in bounded memory.

        `advanced` gets the number of sessions after each batch. Raises as `what_if` does, and `UnknownEvent` at an unreadable
        session.
        """
        return await self._what_ifs.over(policy, since=since, until=until, advanced=advanced)

    async def policies(self) -> list[RecordedPolicy]:
        """Return the policies under which decisions were recorded, the latest first; this process's own if the log has none.

        Raises `UnknownPolicy` for a policy of a newer release.
        """
        return await self._store.policies() or [RecordedPolicy(policy=self._policy)]

    async def why(self, session: UUID | str) -> Explanation:
        """Return every condition on the way to each due step, met or not, and when the step moves.

        Needs the workers' settings. Raises `SessionNotFound`, and `ServiceError` for a database user who cannot read
        due work, such as an auditor.
        """
        return await self._explainer.explain(await self.history(session))

    async def find(self, wanted: FindFilter) -> Findings:
        """Find the sessions that a complaint is about, with everything committed before the call. Shows no personal data.

        A filter by guest or idempotency key needs the key vault and a user who may read personal data; else it raises
        `ServiceError`. Such a search is not recorded.
        """
        return await self._finder.find(wanted)

    async def resolve(
        self,
        session: UUID | str,
        resolution: Resolution,
        *,
        decided_by: str,
        reason: str,
        expected_version: int | None = None,
    ) -> Session:
        """Record a decision about a parked session: `Verdict.RETRY`, `Verdict.ABANDON` or an `Adoption`.

        Returns the session; a scheduler continues. Neither text may contain a secret or personal data. Raises
        `SessionNotFound`, `InvalidRequest` for a value that cannot be stored, `WrongExpectedVersion` if the session is not
        at `expected_version`, and `ResolutionRefused` if it is not parked or the adopted one belongs to another session.
        """
        history = await self.history(session)
        return await self._resolver.resolve(
            history, resolution, decided_by=decided_by, reason=reason, expected_version=expected_version
        )

    async def erase(
        self,
        *,
        subject_id: str | None = None,
        session: UUID | str | None = None,
        reason: str,
        requested_by: str,
    ) -> ErasureCertificate:
        """Erase the personal data of all sessions of a subject, or of one session, and return the certificate.

        Sealed values and index entries are deleted, keys destroyed; sessions without an outcome end first. Until it is done,
        new requests of the subject fail with `SubjectErased`. What was interrupted is finished by calling it again, and a
        repeated call returns the same certificate. Neither text may contain a secret or personal data.

        Raises `NothingToErase` for an unknown subject, `SessionNotFound`, `InvalidRequest` for a text that cannot be stored,
        `UnderLegalHold`, `JournalUnusable`, and `ServiceError`.
        """
        return await self.erasures.erase(
            subject_id=subject_id, session=session, reason=reason, requested_by=requested_by
        )

    async def export(
        self, *, subject_id: str | None = None, session: UUID | str | None = None, reason: str, by: str
    ) -> PersonExport:
        """Return everything held on a person, or in one session, in clear: for the person, on request.

        The look is recorded (`PersonalDataRevealed`) before anything is shown. `msgspec.json.encode` makes JSON of the export.
        Neither text may contain a secret or personal data. Raises `NothingHeld` for an unknown subject, `SessionNotFound`,
        `InvalidRequest`, and `ValueError` unless exactly one of the two is given.
        """
        look = self.look(Reveal(reason=reason, by=by, purposes=tuple(Purpose)))
        return await self._exporter.export(
            subject_id=subject_id, session=session, reason=reason, by=by, reveal=look.events
        )

    async def consent(self, session: UUID | str) -> ConsentRecord:
        """Return the session's consent record as of now (ISO/IEC TS 27560). Raises `SessionNotFound`."""
        return consent_record(await self.history(session))

    async def withdraw(
        self, session: UUID | str, *, requested_by: str, reason: str | None = None, marketing_only: bool = False
    ) -> Withdrawal:
        """Withdraw the guest's consent, and end the session; with `marketing_only`, change the record alone.

        Nothing more is sent to the provider, and a worker sends the webhook's receiver a notice if that knows the session.
        A second withdrawal records nothing. Neither text may contain a secret or personal data. Raises `SessionNotFound`,
        and `InvalidRequest` for a text that cannot be stored.
        """
        return await self._withdrawals.withdraw(
            session, requested_by=requested_by, reason=reason, marketing_only=marketing_only
        )

    async def withdraw_all(
        self, subject_id: str, *, requested_by: str, reason: str | None = None, marketing_only: bool = False
    ) -> AsyncIterator[Withdrawal]:
        """Withdraw as `withdraw` does in each session of a person, oldest first, and yield what came of it.

        If it is cut off, the next call does the rest. A session that cannot be read is left out; at the end, the
        `PartitionDetached` or `UnknownEvent` is raised.
        """
        async for withdrawal in self._withdrawals.withdraw_all(
            subject_id, requested_by=requested_by, reason=reason, marketing_only=marketing_only
        ):
            yield withdrawal

    async def sessions(self, wanted: SessionFilter = SessionFilter()) -> AsyncIterator[SessionRow]:
        """Yield the matching sessions, oldest first unless `wanted` says otherwise, with everything committed before the call.

        No connection is held between rows: stop reading at any of them. A filter by guest needs the key vault and a user
        who may read personal data; else it raises `ServiceError`.
        """
        guest = await self._guest(wanted.guest)
        await self._read_models.catch_up()
        async for row in self._read_models.sessions(wanted, guest):
            yield row

    async def audit(
        self, wanted: AuditFilter = AuditFilter(), *, reveal: Reveal | None = None
    ) -> AsyncIterator[AuditEntry]:
        """Yield the matching audit entries, as `sessions` does.

        With `reveal`, each has its `guest`, as far as it was not erased; a look at them is recorded page by page, before
        the page is yielded. Then also raises `ServiceError` without the key or the privilege.
        """
        guest = await self._guest(wanted.guest)
        await self._read_models.catch_up()
        entries = self._read_models.audit(wanted, guest)
        if reveal is None:
            async for entry in entries:
                yield entry
            return
        look = self.look(reveal)
        async for page in pages(entries, PAGE):
            for entry in await look.entries(page):
                yield entry

    async def _guest(self, wanted: GuestFilter) -> GuestHashes | None:
        return await self._personal.hashes_of(wanted) if wanted else None

    async def metrics(self, wanted: MetricsFilter = MetricsFilter()) -> Metrics:
        """Return the matching metrics, including everything committed before the call."""
        await self._read_models.catch_up()
        return await self._read_models.metrics(wanted)

    async def metrics_by_day(self, wanted: MetricsFilter = MetricsFilter()) -> list[DailyMetrics]:
        """Return the matching metrics of each day (UTC) and channel that has any, oldest first."""
        await self._read_models.catch_up()
        return await self._read_models.metrics_by_day(wanted)

    async def outcomes_by_hour(self, wanted: MetricsFilter = MetricsFilter()) -> list[HourlyOutcomes]:
        """Return the counts of each hour (UTC) that has any, over all channels, oldest first."""
        await self._read_models.catch_up()
        return await self._read_models.outcomes_by_hour(wanted)

    async def check(self) -> None:
        """Check that the provider can be used now.

        Raises `CredentialsRefused` or `ServiceUnreachable`; if a limiter denies the token request, its subclass
        `RequestDenied`.
        """
        await self._provider.ready()

    async def check_databases(self) -> None:
        """Check that the database and the key vault answer now. Raises `ServiceError`."""
        await self._store.head()
        await self._vault.check()

    async def health(self) -> Health:
        """Return, within seconds, whether the databases answer, what waits, and how this process's scheduler fares.

        Does not raise. The provider is not called: that is `check`.
        """
        return await health(
            self._store,
            self._due_steps,
            self._limiter,
            self._read_models,
            self._vault,
            scheduler_runs=self.scheduler.runs,
            trouble=self.scheduler.trouble,
        )

    async def gauges(self) -> Gauges:
        """Return the numbers that all processes share, as `metrics_text` shows them.

        Raises `ServiceError`, also for a user who may not read due work.
        """
        return await gauges(
            due_steps=self._due_steps,
            limiter=self._limiter,
            read_models=self._read_models,
            consumers=self._consumers,
        )
