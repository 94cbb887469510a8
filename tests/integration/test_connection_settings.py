"""Connection settings in the environment, beside the URL."""

from pathlib import Path

import pytest
from sqlalchemy import text

from guestledger.adapters.postgres.admin.embedded import start_embedded
from guestledger.adapters.postgres.errors import reported
from guestledger.adapters.postgres.pool import open_engine
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable


@pytest.fixture(autouse=True)
def certificates_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    monkeypatch.setenv("HOME", str(tmp_path))  # without a root certificate


async def test_a_socket_uses_no_tls_whatever_the_environment_says(data_dir: Path) -> None:
    engine = open_engine(await start_embedded(data_dir), "guestledger")
    async with engine.connect() as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    await engine.dispose()


async def test_an_invalid_connection_setting_is_not_reported_as_lost() -> None:
    engine = open_engine("postgresql://ledger:correct-horse@127.0.0.1:1/ledger", "guestledger")
    with pytest.raises(ServiceUnreachable) as raised, reported():
        await engine.connect()
    await engine.dispose()
    assert raised.value.cause is Cause.NOT_CONFIGURED
    assert "root.crt" in raised.value.detail
    assert "check GUESTLEDGER_DATABASE_URL and the PG" in raised.value.detail
    assert "correct-horse" not in str(raised.value)


@pytest.mark.parametrize(
    ("variable", "allowed"),
    [
        ("PGTARGETSESSIONATTRS", "any, read-write, read-only, primary, standby or prefer-standby"),
        ("PGSSLMODE", "disable, allow, prefer, require, verify-ca or verify-full"),
        ("PGSSLMINPROTOCOLVERSION", "TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"),
        ("PGGSSLIB", "gssapi or sspi"),
    ],
)
def test_a_variable_with_an_unknown_value_is_named(
    variable: str, allowed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "foo")
    with pytest.raises(ServiceUnreachable) as raised:
        open_engine("postgresql://ledger@127.0.0.1:1/ledger", "guestledger")
    assert raised.value.detail == f"the environment variable {variable} must be {allowed}"
