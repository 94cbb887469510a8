"""SQLAlchemy's own logs, at their most talkative, hold no personal data."""

import logging
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from guestledger.engine.projections.sessions import SessionFilter
from tests.integration.conftest import NewLedger
from tests.keys import KEY
from tests.unit.samples import request

ADDRESS = "203.0.113.77"


async def use(ledger: Ledger) -> tuple[str, ...]:
    """Open a session and read it in every way. Returns its personal values."""
    session = await ledger.accept(request(ip_address=ADDRESS))
    [entry] = [entry async for entry in ledger.audit()]
    assert [row async for row in ledger.sessions(SessionFilter(ids=(session.id,)))]
    await ledger.session(session.id)
    await ledger.metrics()
    assert session.guest is not None
    assert entry.id == session.id
    return ADDRESS, session.guest.fingerprint, session.guest.user_agent


async def test_debug_logging_shows_no_row_of_a_guest(new_ledger: NewLedger, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("", "sqlalchemy", "sqlalchemy.engine", "sqlalchemy.pool", "asyncpg"):
        caplog.set_level(logging.DEBUG, logger=name)
    async with new_ledger() as ledger:
        personal = await use(ledger)
    assert "FROM" in caplog.text
    for value in personal:
        assert value not in caplog.text


async def test_a_lent_engine_that_echoes_shows_no_row_of_a_guest(
    ledger_url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger="sqlalchemy")
    engine = create_async_engine(ledger_url, echo="debug")
    async with connect(Settings(encryption_key=KEY), engine=engine, scheduler=False) as ledger:
        personal = await use(ledger)
    async with engine.connect() as connection:
        (await connection.execute(text("SELECT 'own row of the host'"))).all()
    await engine.dispose()
    shown: Any = caplog.text + "".join(capfd.readouterr())
    assert "Row ('own row of the host" in shown, "the host's own logs stay as they are"
    assert "audit_log" in shown
    for value in personal:
        assert value not in shown
