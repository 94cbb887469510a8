"""`guestledger keys`, and how commands speak of keys and of the vault."""

from pathlib import Path

import pytest

from guestledger.adapters.simulator import Simulator
from tests.e2e import guests
from tests.e2e.command import environment, run
from tests.keys import KEY, NEW_KEY
from tests.postgres import as_administrator


@pytest.fixture
async def env(database_url: str):
    """The environment of a ledger with one session."""
    async with Simulator() as simulator:
        found = environment(database_url, simulator)
        opened = await run("open", "-", env=found, stdin=guests.as_lines([guests.guest(1)]))
        assert opened.code == 0, opened.err
        yield found


def with_key(env: dict[str, str], key: str) -> dict[str, str]:
    return {**env, "GUESTLEDGER_ENCRYPTION_KEY": key}


async def test_keys_are_listed_and_rotated(env: dict[str, str]):
    [before] = (await run("keys", "--json", env=env)).out
    assert before["dataKeys"] == 3
    assert (before["current"], before["source"], before["vault"]) == (True, "settings", "ledger")

    rotated = await run("keys", "rotate", env=with_key(env, f"{NEW_KEY} {KEY}"))

    assert (rotated.code, rotated.text) == (0, "")
    listed = await run("keys", env=with_key(env, NEW_KEY))
    [after] = (await run("keys", "--json", env=with_key(env, NEW_KEY))).out
    assert after["id"] != before["id"]
    assert after["id"] in listed.text
    assert "the key vault is in the database of the ledger" in listed.err
    assert f"{after['id']} now wraps all data keys; 3 were wrapped again" in rotated.err
    again = await run("keys", "rotate", env=with_key(env, NEW_KEY))
    assert again.code == 0
    assert "wraps all data keys already: put a new key before it in GUESTLEDGER_ENCRYPTION_KEY" in again.err


async def test_keys_are_rotated_to_the_key_in_a_file(env: dict[str, str], tmp_path: Path):
    file = tmp_path / "new.key"
    file.write_text(NEW_KEY)
    file.chmod(0o600)

    rotated = await run("keys", "rotate", "--new-key-file", str(file), env=env)

    assert rotated.code == 0, rotated.err
    assert (await run("worker", "--until-idle", env=with_key(env, NEW_KEY))).code == 0


async def test_a_worker_with_another_key_ends_in_one_line(env: dict[str, str]):
    refused = await run("worker", "--until-idle", env=with_key(env, NEW_KEY))

    assert refused.code == 2
    [line] = refused.err.splitlines()
    assert line.startswith("guestledger: the key vault cannot be used: its keys are wrapped by the key-encryption key ")
    assert line.endswith(": check GUESTLEDGER_ENCRYPTION_KEY")


async def test_a_worker_without_a_key_ends_in_one_line(env: dict[str, str]):
    refused = await run("worker", "--until-idle", env=with_key(env, ""))

    assert refused.code == 2
    [line] = refused.err.splitlines()
    assert line.startswith("guestledger: the key vault cannot be used: ")
    assert "set GUESTLEDGER_ENCRYPTION_KEY, GUESTLEDGER_ENCRYPTION_KEY_FILE or GUESTLEDGER_ENCRYPTION_KMS_KEY" in line


async def test_a_vault_apart_is_created_by_the_upgrade(database_url: str, empty_database_url: str):
    async with Simulator() as simulator:
        env = environment(
            database_url, simulator, vault_url=empty_database_url, migration_url=as_administrator(database_url)
        )
        refused = await run("open", "-", env=env, stdin=guests.as_lines([guests.guest(1)]))
        assert refused.code == 2
        assert refused.err == (
            "guestledger: the key vault's database has no key vault in schema 'guestledger': run `guestledger db upgrade`\n"
        )

        for _ in range(2):
            assert (await run("db", "upgrade", env=env)).code == 0
        opened = await run("open", "-", env=env, stdin=guests.as_lines([guests.guest(1)]))

        assert [answer["status"] for answer in opened.out] == ["active"]
        assert "the key vault is a database of its own" in (await run("keys", env=env)).err
        gone = await run(
            "worker", "--until-idle", env={**env, "GUESTLEDGER_VAULT_URL": "postgresql://nobody@127.0.0.1:1/none"}
        )
        assert gone.code == 2
        [line] = gone.err.splitlines()
        assert line.startswith("guestledger: the key vault cannot be used: ")
        assert "GUESTLEDGER_VAULT_URL" in line
