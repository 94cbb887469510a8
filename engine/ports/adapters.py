"""Everything that the engine needs from outside: one adapter for each port."""

from dataclasses import dataclass

from guestledger.engine.ports.access_keys import AccessKeys
from guestledger.engine.ports.clock import Clock
from guestledger.engine.ports.consumers import ConsumerCheckpoints
from guestledger.engine.ports.due_steps import DueSteps
from guestledger.engine.ports.erasures import ErasureJournal, ErasureStore
from guestledger.engine.ports.event_store import EventStore
from guestledger.engine.ports.key_vault import KeyVault
from guestledger.engine.ports.legal_holds import LegalHolds
from guestledger.engine.ports.log_verifier import LogVerifier
from guestledger.engine.ports.partitions import Partitions
from guestledger.engine.ports.personal_data import PersonalData
from guestledger.engine.ports.provider import Provider
from guestledger.engine.ports.rate_limiter import RateLimiter
from guestledger.engine.ports.read_models import ReadModels
from guestledger.engine.ports.session_finder import SessionFinder
from guestledger.engine.ports.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True, slots=True)
class Adapters:
    """The adapters of one ledger."""

    store: EventStore
    verifier: LogVerifier
    due_steps: DueSteps
    consumers: ConsumerCheckpoints
    erasures: ErasureStore
    journal: ErasureJournal | None
    partitions: Partitions
    read_models: ReadModels
    finder: SessionFinder
    personal: PersonalData
    provider: Provider
    limiter: RateLimiter
    vault: KeyVault
    holds: LegalHolds
    access_keys: AccessKeys
    clock: Clock
    telemetry: Telemetry
