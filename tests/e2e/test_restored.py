"""What a person sees when an older backup was restored while commands run."""

import asyncio

from tests import logs
from tests.backups import Backup
from tests.e2e.test_log_commands import PATIENCE, printed, run, start


async def test_follow_ends_in_one_line_when_an_older_backup_is_restored(database_url: str) -> None:
    await logs.write(database_url, 20)
    async with Backup(database_url) as backup:
        await logs.write(database_url, 10, after=19)
        following = await start(database_url, "events", "--follow", "--json")
        assert following.stdout is not None
        async with asyncio.timeout(PATIENCE):
            for _ in range(30):
                await following.stdout.readline()
            await backup.restore()
            out, err = await following.communicate()

    assert (following.returncode, out) == (2, b"")
    line = err.decode().splitlines()[-1]
    assert line == (
        "guestledger: the log was set back: it has read position 29, and the log ends at position 19, as after an older "
        "backup is restored: `guestledger db restored` lists the consumers and how to set them back"
    )


async def test_db_restored_lists_consumers_and_set_back_lets_them_continue(database_url: str) -> None:
    await logs.write(database_url, 50)
    connection = await logs.connect(database_url)
    await connection.execute(
        "INSERT INTO guestledger.consumers (name, position) VALUES ('warehouse', 40), ('queue', 70)"
    )
    await connection.close()

    code, _, err = await run(database_url, "db", "restored")

    assert code == 0
    assert "the log continues after position 49" in err
    assert "consumer 'warehouse' had read position 40 or more and stands at 40" in err
    assert "`guestledger consumers --set-back queue`" in err
    [queue] = [row for row in await printed(database_url, "consumers", "--set-back", "queue") if row["name"] == "queue"]
    assert (queue["position"], queue.get("ahead_at")) == (49, None)
    [warehouse, _] = reversed(await printed(database_url, "consumers", "--set-back", "warehouse", "--to", "10"))
    assert (warehouse["position"], warehouse.get("ahead_at")) == (10, None)
    code, _, err = await run(database_url, "consumers", "--set-back", "nobody")
    assert (code, err.count("\n")) == (2, 1)
