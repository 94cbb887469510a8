"""Every crash of an erasure: it is cut off at each of its awaits, and running it again finishes it."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.request import GuestRequest
from guestledger.engine.ledger import Ledger
from guestledger.engine.operations.erase import ErasureCertificate
from guestledger.engine.ports.erasures import JournalEntry
from tests.e2e import raw_log
from tests.faults.fault_injection import CutOff
from tests.faults.servers import SERVERS, environment_at
from tests.unit.samples import request

ASKED = {"reason": "asked by mail", "requested_by": "ops-jane"}
KEYS = SERVERS[0]


def of(number: int) -> GuestRequest:
    return request(subject_id=f"guest {number}")


async def erase(ledger: Ledger, number: int) -> ErasureCertificate:
    return await ledger.erase(subject_id=f"guest {number}", **ASKED)


async def test_an_erasure_cut_off_at_any_await_is_finished_by_running_it_again(
    database_url: str, tmp_path: Path, report_line: Callable[[str], None]
) -> None:
    async with Simulator(KEYS.config()) as simulator:
        settings = Settings.from_env(
            environment_at(KEYS, simulator, database_url) | {"GUESTLEDGER_ERASURE_JOURNAL": str(tmp_path / "journal")}
        )
        async with connect(settings, scheduler=False) as other:

            async def cut_after(awaits: int) -> bool:
                await other.open_session(of(awaits))
                await other.accept(of(awaits))
                cut = CutOff(awaits, only_within=True)

                async def work() -> None:
                    async with connect(settings, scheduler=False) as ledger:
                        with cut.within():
                            await erase(ledger, awaits)

                await cut.run(work)
                return cut.happened

            points = 0
            while await cut_after(points + 1):
                points += 1
                assert_whole(await erase(other, points))
            report_line(f"an erasure: the process was cut off at {points} points")

    assert points > 10, "an erasure has more awaits than that"
    left = "SELECT stream_id FROM personal UNION ALL SELECT stream_id FROM personal_index"
    assert not await raw_log.query(database_url, left)
    assert not await raw_log.query(database_url, "SELECT key_id FROM data_keys WHERE purpose <> 'index'")
    erased = "SELECT stream_id FROM events WHERE event_type = 'GuestErased' GROUP BY stream_id HAVING count(*) = 1"
    assert len(await raw_log.query(database_url, erased)) == 2 * (points + 1)
    await assert_all_are_in_the_journal(database_url, (tmp_path / "journal").read_bytes())


def assert_whole(certificate: ErasureCertificate) -> None:
    assert (certificate.sessions, certificate.rows, certificate.keys) == (2, 3, 2)
    assert len(certificate.events) == 2


async def assert_all_are_in_the_journal(database_url: str, journal: bytes) -> None:
    listed = {msgspec.json.decode(line, type=JournalEntry).erasure for line in journal.splitlines()}
    found = await raw_log.query(database_url, "SELECT id, completed_at FROM erasures")
    assert all(completed_at is not None for _, completed_at in found)
    assert {erasure for erasure, _ in found} == listed
