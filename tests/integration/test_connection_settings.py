"""What the environment says of connections, beside the URL."""

from pathlib import Path

import pytest
from sqlalchemy import text

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.domain.errors import ServiceUnreachable


@pytest.fixture(autouse=True)
def certificates_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("HOME", str(tmp_path))  # where no root certificate is


async def test_through_a_socket_there_is_no_tls_whatever_the_environment_asks_for(data_dir: Path) -> None:
    engine = open_engine(await start_embedded(data_dir), "guestledger")
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await engine.dispose()


async def test_a_connection_that_cannot_be_set_up_is_told_so_and_not_called_lost() -> None:
    engine = open_engine("postgresql://ledger:correct-horse@127.0.0.1:1/ledger", "guestledger")
    stated = r"root\.crt.* check GUESTLEDGER_DATABASE_URL and the PG"
    with pytest.raises(ServiceUnreachable, match=stated) as told, reported():
        await engine.connect()
    await engine.dispose()
    assert "lost" not in str(told.value)
    assert "correct-horse" not in str(told.value)
