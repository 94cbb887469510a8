"""The journal of erasures: a restored older backup is not opened until they are replayed, and nothing in it is readable."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from msgspec.structs import replace

from guestledger.adapters.erasure_journal import FileJournal
from guestledger.adapters.postgres.personal.erasures import PostgresErasures
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.errors import ErasuresMissing, JournalUnusable
from guestledger.engine.ledger import Ledger
from guestledger.engine.operations.erase import ErasureCertificate, Erasures
from tests import postgres
from tests.backups import Backup
from tests.integration.conftest import NewLedger
from tests.integration.plain_sql import connect_plainly
from tests.integration.test_erasure import ASKED, erase, is_readable, open_for
from tests.integration.test_key_vault import upgraded
from tests.keys import KEY
from tests.unit.samples import IP, request

REPLAYED = {"reason": "an older backup was restored", "requested_by": "ops-jane"}
Journalled = Callable[[], Any]


@pytest.fixture
def journal(tmp_path: Path) -> FileJournal:
    return FileJournal(tmp_path / "erasures.jsonl")


@pytest.fixture
def journalled(database_url: str, new_ledger: NewLedger, journal: FileJournal) -> Journalled:
    """Open the ledger with the journal, in a database of the test's own, which can be replaced."""
    return lambda: new_ledger(erasure_journal=journal.path)


async def replay(new_ledger: NewLedger, journal: FileJournal) -> list[ErasureCertificate]:
    async with new_ledger() as ledger:
        return await ledger.erasures.replay(await journal.entries(), **REPLAYED)


async def readable(ledger: Ledger) -> list[bool]:
    return [await is_readable(ledger, row.id) async for row in ledger.sessions()]


async def test_a_restored_older_backup_is_refused_until_the_journal_is_replayed(
    journalled: Journalled, new_ledger: NewLedger, journal: FileJournal, database_url: str
) -> None:
    async with journalled() as ledger:
        await open_for(ledger, times=2)
        [single, kept] = await open_for(ledger, "bert", 2)
        await ledger.accept(request(subject_id="anna"))
    async with Backup(database_url) as backup:
        async with journalled() as ledger:
            certificate = await erase(ledger)
            await ledger.erase(session=single.id, **ASKED)
        await backup.restore()

        with pytest.raises(ErasuresMissing, match="lacks 2 of the erasures") as caught:
            async with journalled():
                pass
        assert str(journal.path) in str(caught.value)
        again = await replay(new_ledger, journal)

        assert [one.id for one in again] == [entry.erasure for entry in await journal.entries()]
        assert (again[0].sessions, again[0].rows, again[0].keys) == (3, certificate.rows, certificate.keys)
        async with journalled() as ledger:
            assert await readable(ledger) == [False, False, False, True, False]
            assert await is_readable(ledger, kept.id)
            assert not await replay(new_ledger, journal)


async def test_a_replay_spares_those_who_came_back_after_their_erasure(
    journalled: Journalled, new_ledger: NewLedger, journal: FileJournal, database_url: str
) -> None:
    async with journalled() as ledger:
        await open_for(ledger)
    async with Backup(database_url) as backup:
        async with journalled() as ledger:
            await erase(ledger)
        await backup.restore()
    async with new_ledger() as ledger:
        await open_for(ledger)

    [certificate] = await replay(new_ledger, journal)

    assert (certificate.sessions, certificate.keys) == (1, 0)
    async with journalled() as ledger:
        assert await readable(ledger) == [False, True]


@pytest.mark.parametrize("interrupted_in", [(Erasures, "_erase_streams"), (PostgresErasures, "complete")])
async def test_an_interrupted_replay_is_finished_by_another(
    journalled: Journalled,
    new_ledger: NewLedger,
    journal: FileJournal,
    database_url: str,
    monkeypatch: Any,
    interrupted_in: tuple[type, str],
) -> None:
    async with journalled() as ledger:
        await open_for(ledger)
    async with Backup(database_url) as backup:
        async with journalled() as ledger:
            certificate = await erase(ledger)
        await backup.restore()
    with monkeypatch.context() as patched:
        patched.setattr(*interrupted_in, _fail)
        with pytest.raises(RuntimeError):
            await replay(new_ledger, journal)
    if interrupted_in[0] is Erasures:  # the data is still there
        with pytest.raises(ErasuresMissing, match="lacks 1 of the erasures"):
            async with journalled():
                pass

    [again] = await replay(new_ledger, journal)

    assert (again.id, again.rows, again.keys) == (certificate.id, certificate.rows, certificate.keys)


@pytest.mark.parametrize("interrupted_in", ["_erase_streams", "_entry"])
async def test_a_backup_of_a_begun_erasure_is_refused_while_it_holds_the_data(
    journalled: Journalled,
    new_ledger: NewLedger,
    journal: FileJournal,
    database_url: str,
    monkeypatch: Any,
    interrupted_in: str,
) -> None:
    async with journalled() as ledger:
        [session] = await open_for(ledger)
        with monkeypatch.context() as patched:
            patched.setattr(Erasures, interrupted_in, _fail)
            with pytest.raises(RuntimeError):
                await erase(ledger)
    async with Backup(database_url) as backup:
        async with journalled() as ledger:
            await erase(ledger)
        await backup.restore()

    if interrupted_in == "_entry":  # all is erased, and only the note of it is missing
        async with journalled() as ledger:
            assert not await is_readable(ledger, session.id)
        return
    with pytest.raises(ErasuresMissing, match="lacks 1 of the erasures"):
        async with journalled():
            pass
    await replay(new_ledger, journal)
    async with journalled() as ledger:
        assert not await is_readable(ledger, session.id)


async def _fail(*_: object) -> None:
    raise RuntimeError


async def test_a_dump_of_before_the_erasure_is_unreadable_with_the_keys_of_today(
    new_ledger: NewLedger, database_url: str
) -> None:
    async with new_ledger() as ledger:
        await open_for(ledger, times=3)
    async with Backup(database_url) as backup:
        async with new_ledger() as ledger:
            await erase(ledger)
        present = await keys(database_url)
        await backup.restore()
    # The vault as it is today, beside the log as it was.
    connection = await connect_plainly(database_url)
    await connection.execute("DELETE FROM data_keys WHERE key_id <> ALL($1::uuid[])", present)
    assert await connection.fetchval("SELECT count(*) FROM personal") == 6
    await connection.close()

    async with new_ledger() as ledger:
        assert await readable(ledger) == [False] * 3
        shown = [recorded async for batch in ledger.events.read() for recorded in batch]
        assert IP not in "".join(recorded.data for recorded in shown)


async def test_a_dump_of_before_the_erasure_is_unreadable_beside_a_vault_of_its_own(
    database_url: str, runtime_server: str
) -> None:
    async with postgres.new_database(runtime_server) as vault_url:
        settings = Settings(database_url=database_url, vault_url=vault_url, encryption_key=KEY)
        await upgraded(settings)
        async with connect(settings, scheduler=False) as ledger:
            await ledger.accept(request(subject_id="anna"))
            assert await readable(ledger) == [True]
        async with Backup(database_url) as backup:
            async with connect(settings, scheduler=False) as ledger:
                certificate = await erase(ledger)
            await backup.restore()
        async with connect(settings, scheduler=False) as ledger:
            assert await readable(ledger) == [False]
    assert (certificate.rows, certificate.keys) == (1, 1)


async def keys(database_url: str) -> list[Any]:
    connection = await connect_plainly(database_url)
    found = [row[0] for row in await connection.fetch("SELECT key_id FROM data_keys")]
    await connection.close()
    return found


async def test_the_journal_has_each_erasure_and_no_personal_data(journalled: Journalled, journal: FileJournal) -> None:
    async with journalled() as ledger:
        [session] = await open_for(ledger)
        [single, _] = await open_for(ledger, "bert", 2)
        first = await erase(ledger)
        second = await ledger.erase(session=single.id, **ASKED)

    first_line, second_line = (json.loads(line) for line in journal.path.read_text().splitlines())
    assert set(first_line) == {"erasure", "ledger", "subject", "session", "at"}
    assert (first_line["erasure"], first_line["subject"], first_line["session"]) == (str(first.id), first.subject, None)
    assert (second_line["erasure"], second_line["session"]) == (str(second.id), str(single.id))
    assert str(session.id) not in str(first_line)
    assert "anna" not in journal.path.read_text()
    assert journal.path.stat().st_mode & 0o077 == 0


async def test_an_erasure_that_cannot_be_written_to_the_journal_is_not_completed(
    journalled: Journalled, journal: FileJournal, monkeypatch: Any
) -> None:
    async with journalled() as ledger:
        [session] = await open_for(ledger)
        journal.path.touch()
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", _no_space)
            with pytest.raises(JournalUnusable, match="No space left"):
                await erase(ledger)
        assert [one.completed_at for one in await ledger.erasures._erasures.unfinished()] == [None]
        certificate = await ledger.erase(session=session.id, **ASKED)
        assert [entry.erasure for entry in await journal.entries()][-1] == certificate.id


def _no_space(_: object) -> None:
    raise OSError(28, "No space left on device")


async def test_a_line_that_a_crash_cut_off_is_replaced(journalled: Journalled, journal: FileJournal) -> None:
    async with journalled() as ledger:
        for subject in ("anna", "bert"):
            await open_for(ledger, subject)
        first = await erase(ledger)
        with journal.path.open("a") as file:
            file.write('{"erasure":"0190')
        second = await erase(ledger, "bert")
    assert [entry.erasure for entry in await journal.entries()] == [first.id, second.id]


async def test_a_journal_that_cannot_be_read_is_said_and_no_ledger_is_opened(
    journalled: Journalled, journal: FileJournal
) -> None:
    journal.path.write_text("no erasure\n")
    with pytest.raises(JournalUnusable, match="line 1 is not an erasure"):
        async with journalled():
            pass


async def test_a_journal_that_does_not_exist_is_said_until_it_begins(
    journalled: Journalled, journal: FileJournal, caplog: pytest.LogCaptureFixture
) -> None:
    async with journalled() as ledger:
        assert f"the journal of erasures {journal.path} does not exist" in caplog.text
        await open_for(ledger)
        await erase(ledger)
    caplog.clear()
    async with journalled():
        assert "does not exist" not in caplog.text


async def test_ledgers_share_a_journal(journalled: Journalled, new_ledger: NewLedger, journal: FileJournal) -> None:
    async with journalled() as ledger:
        await open_for(ledger)
        await erase(ledger)
    [entry] = await journal.entries()
    await journal.add(replace(entry, ledger=uuid4(), erasure=uuid4()))
    async with journalled():
        pass
    assert not await replay(new_ledger, journal)
