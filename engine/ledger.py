"""The ledger: the object that an embedder holds."""

from collections.abc import AsyncIterator
from uuid import UUID

from guestledger.engine.domain.outcomes import Resolution
from guestledger.engine.domain.personal import Purpose
from guestledger.engine.domain.policy import Policy
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.domain.session import Session
from guestledger.engine.log.appends import Lease
from guestledger.engine.log.recorded import RecordedEvent
from guestledger.engine.operations.access import Access
from guestledger.engine.operations.checks import Checks
from guestledger.engine.operations.consents import Consents, Withdrawal
from guestledger.engine.operations.decisions import Decisions
from guestledger.engine.operations.erase import ErasureCertificate, Erasures
from guestledger.engine.operations.events import Events
from guestledger.engine.operations.explain import Explainer, Explanation
from guestledger.engine.operations.export import Exporter, PersonExport
from guestledger.engine.operations.find import Finder, Findings
from guestledger.engine.operations.health import Health, health
from guestledger.engine.operations.histories import Histories
from guestledger.engine.operations.limits import Limits
from guestledger.engine.operations.lists import Lists
from guestledger.engine.operations.open import Opener
from guestledger.engine.operations.partitions import Partitions
from guestledger.engine.operations.projections import Projections
from guestledger.engine.operations.redeliver import Webhooks
from guestledger.engine.operations.replay import Replay
from guestledger.engine.operations.resolve import Resolver
from guestledger.engine.operations.retention import Retention
from guestledger.engine.operations.reveal import Look, Reveal
from guestledger.engine.ports.adapters import Adapters
from guestledger.engine.ports.session_finder import FindFilter
from guestledger.engine.projections.audit import AuditEntry, AuditFilter
from guestledger.engine.projections.metrics import Metrics, MetricsFilter
from guestledger.engine.projections.sessions import SessionFilter, SessionRow
from guestledger.engine.worker.executor import Executor
from guestledger.engine.worker.leases import Leases
from guestledger.engine.worker.scheduler import Scheduler
from guestledger.engine.worker.session_work import session_of
from guestledger.engine.worker.step import Lane


class Ledger:
    """Opens guest sessions and shows what happened in each.

    Methods take the engine's or the provider's session id. More is in `replay`, `consents`, `events`, `webhooks`,
    `projections`, `limits`, `partitions`, `erasures`, `retention`, `access`, `checks` and `scheduler`.
    """

    def __init__(
        self,
        adapters: Adapters,
        *,
        executor: Executor,
        scheduler: Scheduler,
        leases: Leases,
        lease: Lease,
        policy: Policy,
    ) -> None:
        store, personal, read_models, clock = adapters.store, adapters.personal, adapters.read_models, adapters.clock
        decisions = Decisions(store=store, clock=clock, policy=policy)
        histories = Histories(store=store, read_models=read_models)
        self._adapters = adapters
        self._histories = histories
        self.telemetry = adapters.telemetry
        """What was counted in this process: see `metrics_text`."""
        self.scheduler = scheduler
        self.events = Events(store=store, verifier=adapters.verifier, consumers=adapters.consumers, clock=clock)
        self.webhooks = Webhooks(store=store, histories=histories, decisions=decisions, policy=policy)
        self.projections = Projections(read_models=read_models, clock=clock)
        self.limits = Limits(adapters.limiter)
        self.partitions = Partitions(adapters.partitions)
        self.access = Access(adapters.access_keys, personal, clock)
        self.checks = Checks(adapters)
        self.replay = Replay(
            store=store, histories=histories, holds=adapters.holds, look=self.look, clock=clock, policy=policy
        )
        self.consents = Consents(personal=personal, histories=histories, decisions=decisions)
        self.retention = Retention(adapters, histories=histories, decisions=decisions, days=policy.retention_days)
        self.erasures = Erasures(adapters, histories=histories, decisions=decisions, retention=self.retention)
        self._opener = Opener(adapters, executor=executor, leases=leases, lease=lease, histories=histories)
        self._exporter = Exporter(adapters, histories=histories, retention_days=policy.retention_days)
        self._resolver = Resolver(decisions=decisions, read_models=read_models)
        self._finder = Finder(sessions=adapters.finder, read_models=read_models, personal=personal)
        self._lists = Lists(read_models=read_models, personal=personal)
        self._explainer = Explainer(adapters, handlers=executor.handlers, policy=policy)

    async def open_session(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Accept `request`, go as far as possible at once, and return the session.

        It is active, refused, rejected or abandoned; or pending until `retry_at`, and a scheduler continues.
        `correlation_id` (default: the session id) is stored with every event. A repeated request, by its key, gets the
        session of the first one, with its token in clear and its contact data `Sealed`.

        Raises `InvalidRequest` (nothing was recorded), `IdempotencyConflict` if the key was used for another channel,
        subject or consent, `EventTooLarge`, `SubjectErased` while the person is being erased, and `ServiceError` if the
        provider or the database cannot be used: the session in its `accepted`, if any, stays pending. For a known key
        also `PartitionDetached` and `UnknownEvent`, if its session cannot be read.
        """
        return await self._opener.open(request, Lane.CREATION, correlation_id)

    async def accept(self, request: GuestRequest, *, correlation_id: str | None = None) -> Session:
        """Record `request` and leave the rest to a scheduler. Raises as `open_session` does."""
        return await self._opener.open(request, None, correlation_id)

    async def session(self, session: UUID | str, *, token: bool = False, reveal: Reveal | None = None) -> Session:
        """Return the session as it is now, its personal data `Sealed`. Raises `SessionNotFound`.

        With `token`, the guest's token is in clear, to answer that guest. That is what it is kept for, so it is no look
        at personal data and not recorded. `reveal`: see `history`.
        """
        history = await self.history(session, reveal=reveal)
        if token and (reveal is None or Purpose.ACCESS not in reveal.purposes):
            history = await self._adapters.personal.opened(history, (Purpose.ACCESS,))
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
        return Look(
            reveal,
            store=self._adapters.store,
            personal=self._adapters.personal,
            clock=self._adapters.clock,
        )

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

    async def withdraw(
        self, session: UUID | str, *, requested_by: str, reason: str | None = None, marketing_only: bool = False
    ) -> Withdrawal:
        """Withdraw the guest's consent, and end the session; with `marketing_only`, change the record alone.

        Nothing more is sent to the provider, and a worker sends the webhook's receiver a notice if that knows the session.
        A second withdrawal records nothing. Neither text may contain a secret or personal data. Raises `SessionNotFound`,
        and `InvalidRequest` for a text that cannot be stored.
        """
        return await self.consents.withdraw(
            session, requested_by=requested_by, reason=reason, marketing_only=marketing_only
        )

    def sessions(self, wanted: SessionFilter = SessionFilter()) -> AsyncIterator[SessionRow]:
        """Yield the matching sessions, oldest first unless `wanted` says otherwise, with everything committed before the call.

        No connection is held between rows: stop reading at any of them. A filter by guest needs the key vault and a user
        who may read personal data; else it raises `ServiceError`.
        """
        return self._lists.sessions(wanted)

    def audit(self, wanted: AuditFilter = AuditFilter(), *, reveal: Reveal | None = None) -> AsyncIterator[AuditEntry]:
        """Yield the matching audit entries, as `sessions` does.

        With `reveal`, each has its `guest`, as far as it was not erased; a look at them is recorded page by page, before
        the page is yielded. Then also raises `ServiceError` without the key or the privilege.
        """
        return self._lists.audit(wanted, None if reveal is None else self.look(reveal))

    async def metrics(self, wanted: MetricsFilter = MetricsFilter()) -> Metrics:
        """Return the matching metrics, including everything committed before the call."""
        await self._adapters.read_models.catch_up()
        return await self._adapters.read_models.metrics(wanted)

    async def health(self) -> Health:
        """Return, within seconds, whether the databases answer, what waits, and how this process's scheduler fares.

        Does not raise. The provider is not called: that is `checks.provider`.
        """
        return await health(self._adapters, scheduler_runs=self.scheduler.runs, trouble=self.scheduler.trouble)
