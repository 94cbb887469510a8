"""Databases as people run them: libpq's parameters, encodings, read-only servers, few connections, a host's codecs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from guestledger.adapters.database import upgrade_database
from guestledger.adapters.postgres.errors import LedgerNotReady, LedgerProblem, UnfitEngine
from guestledger.adapters.postgres.log.event_store import PostgresEventStore
from guestledger.adapters.postgres.pool import open_engine
from guestledger.adapters.postgres.unusable import DatabaseProblem, DatabaseUnusable
from guestledger.adapters.postgres.url import connect_arguments, database_url
from guestledger.adapters.settings import Settings
from guestledger.adapters.wiring import connect
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable
from tests import logs
from tests.integration.appends import an_append
from tests.integration.conftest import NewLedger, NewLogin
from tests.keys import KEY
from tests.unit.samples import request

SSL_REQUEST = bytes.fromhex("00000008 04d2162f")


def with_parameters(url: str, **parameters: str) -> str:
    return make_url(url).update_query_dict(parameters).render_as_string(hide_password=False)


# Parameters of the URL


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (
            "channel_binding=require",
            "channel_binding=require in GUESTLEDGER_DATABASE_URL is not supported: leave it out",
        ),
        ("keepalives=1", "keepalives in GUESTLEDGER_DATABASE_URL is not supported: leave it out"),
        ("pgbouncer=true", "and write prepared_statement_cache_size=0"),
        ("connection_limit=5", "and set GUESTLEDGER_DATABASE_CONNECTIONS"),
        ("sslmod=require", "did you mean sslmode?"),
        ("connect_timeout=soon", "connect_timeout in GUESTLEDGER_DATABASE_URL must be a whole number"),
        ("prepared_statement_cache_size=off", "must be a whole number"),
        ("sslrootcert=system", "name the file with the certificates"),
        (
            "target_session_attrs=foo",
            "target_session_attrs in GUESTLEDGER_DATABASE_URL must be any, read-write, read-only, primary, standby or prefer-standby",
        ),
        (
            "sslmode=foo",
            "sslmode in GUESTLEDGER_DATABASE_URL must be disable, allow, prefer, require, verify-ca or verify-full",
        ),
        ("ssl=foo", "ssl in GUESTLEDGER_DATABASE_URL must be true, disable"),
        ("sslnegotiation=foo", "sslnegotiation in GUESTLEDGER_DATABASE_URL must be postgres or direct"),
        ("sslnegotiation=direct&sslmode=prefer", "needs an sslmode of require, verify-ca or verify-full"),
        ("ssl_min_protocol_version=SSLv3", "must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"),
        ("ssl_max_protocol_version=1.3", "must be TLSv1, TLSv1.1, TLSv1.2 or TLSv1.3"),
        ("gsslib=foo", "gsslib in GUESTLEDGER_DATABASE_URL must be gssapi or sspi"),
        ("channel_binding=foo", "channel_binding in GUESTLEDGER_DATABASE_URL must be disable or prefer"),
        ("gssencmode=foo", "gssencmode in GUESTLEDGER_DATABASE_URL must be disable or prefer"),
        ("connect_timeout=abc", "connect_timeout in GUESTLEDGER_DATABASE_URL must be a whole number"),
        ("port=abc", "a port in GUESTLEDGER_DATABASE_URL must be a whole number from 1 to 65535"),
        ("port=99999", "must be a whole number from 1 to 65535"),
        ("host=one,,two", "a host in GUESTLEDGER_DATABASE_URL cannot be read"),
        ("host=[::1", "a host in GUESTLEDGER_DATABASE_URL cannot be read"),
        ("host=one,two&port=1,2,3", "GUESTLEDGER_DATABASE_URL names 3 ports and 2 hosts"),
    ],
)
def test_an_unusable_parameter_of_the_url_is_named(parameter: str, words: str) -> None:
    with pytest.raises(ServiceUnreachable) as raised:
        database_url(f"postgresql://ledger:correct-horse@host/app?{parameter}")
    assert words in raised.value.detail
    assert "correct-horse" not in str(raised.value)


@pytest.mark.parametrize("hosts", ["one:abc,two:2", ",two", "one:1,two:99999", "one:99999"])
def test_no_unreadable_host_of_the_url_is_passed_over(hosts: str) -> None:
    with pytest.raises(ServiceUnreachable, match=r"a (host|port) in GUESTLEDGER_DATABASE_URL"):
        database_url(f"postgresql://ledger@{hosts}/app")


def test_an_unknown_parameter_of_the_url_is_not_shown() -> None:
    with pytest.raises(ServiceUnreachable) as raised:
        database_url("postgresql://ledger@host/app?zebra9=horse")
    assert "percent-encode" in raised.value.detail
    assert "zebra9" not in str(raised.value)
    assert "horse" not in str(raised.value)


async def test_application_name_and_options_of_the_url_are_honoured(ledger_url: str) -> None:
    url = with_parameters(ledger_url, application_name="app", options="-cstatement_timeout=4711 -csearch_path=app")
    engine = open_engine(url, "guestledger")
    async with engine.connect() as connection:
        driver: Any = (await connection.get_raw_connection()).driver_connection
        found = [
            await driver.fetchval(f"SHOW {name}") for name in ("application_name", "statement_timeout", "search_path")
        ]
    await engine.dispose()
    assert found == ["app", "4711ms", "pg_catalog, pg_temp"]


@pytest.mark.parametrize("mode", ["require", "verify-full"])
async def test_tls_is_asked_for_as_sslmode_says(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    received = asyncio.Queue[bytes]()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.put_nowait(await reader.readexactly(8))
        writer.write(b"N")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    certificates = "&sslrootcert=/no/such/file" if mode == "verify-full" else ""
    settings = Settings(
        encryption_key=KEY, database_url=f"postgresql://ledger@127.0.0.1:{port}/app?sslmode={mode}{certificates}"
    )
    with pytest.raises(ServiceUnreachable) as raised:
        async with connect(settings):
            pass
    server.close()
    await server.wait_closed()
    if certificates:
        assert "the file that sslrootcert in GUESTLEDGER_DATABASE_URL names" in raised.value.detail
    else:
        assert raised.value.cause is Cause.TLS_FAILED
        assert received.get_nowait() == SSL_REQUEST


async def test_several_hosts_are_tried_in_turn(ledger_url: str) -> None:
    given = make_url(ledger_url)
    socket, port = given.query.get("host", given.host), given.query.get("port", given.port or 5432)
    path = f"{given.username}:{given.password}@127.0.0.1:1,{str(socket).replace('/', '%2F')}:{port}/{given.database}"
    engine = open_engine(f"postgresql://{path}", "guestledger")
    async with engine.connect():
        pass
    await engine.dispose()


def test_hosts_and_time_limits_reach_the_driver() -> None:
    url = database_url("postgres://u:p@one:1,two:2/app?connect_timeout=3&channel_binding=prefer&gssencmode=prefer")
    assert connect_arguments(url) == {
        "user": "u", "password": "p", "database": "app", "timeout": 3, "dsn": "postgresql:///?host=one%2Ctwo&port=1%2C2",
    }  # fmt: skip
    assert connect_arguments(database_url("postgresql://h/app?connect_timeout=0"))["timeout"] is None
    assert connect_arguments(database_url("postgresql://h/app?ssl=true"))["dsn"] == "postgresql:///?sslmode=require"


# Encodings


async def test_a_database_that_is_not_utf8_is_refused(postgres_server: str, empty_database_url: str) -> None:
    administrator = await logs.connect(empty_database_url)
    name = f"{make_url(empty_database_url).database}_latin"
    await administrator.execute(
        f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    url = make_url(postgres_server).set(database=name).render_as_string(hide_password=False)
    try:
        with pytest.raises(LedgerNotReady, match="is encoded in LATIN1, and a ledger needs UTF8") as raised:
            await upgrade_database(Settings(migration_url=url))
        assert raised.value.problem is LedgerProblem.ENCODING
        with pytest.raises(LedgerNotReady, match="LATIN1"):
            async with connect(Settings(encryption_key=KEY, database_url=url)):
                pass
    finally:
        await administrator.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await administrator.close()


# Each error in its own words


@asynccontextmanager
async def refused(problem: DatabaseProblem) -> AsyncIterator[None]:
    with pytest.raises(DatabaseUnusable) as raised:
        yield
    assert raised.value.problem is problem


async def test_a_missing_database_and_a_wrong_login_are_told_apart(ledger_url: str) -> None:
    given = make_url(ledger_url)
    async with refused(DatabaseProblem.NO_DATABASE), connect(_named(given.set(database="nowhere"))):
        pass
    async with refused(DatabaseProblem.LOGIN_REFUSED), connect(_named(given.set(username="nobody"))):
        pass


async def test_a_database_that_is_closed_for_a_restore_is_unreachable_for_now(ledger_url: str) -> None:
    given = make_url(ledger_url)
    server = await logs.connect(given.set(database="postgres").render_as_string(hide_password=False))
    await server.execute(f'ALTER DATABASE "{given.database}" ALLOW_CONNECTIONS false')
    try:
        async with refused(DatabaseProblem.STARTING), connect(_named(given)):
            pass
    finally:
        await server.execute(f'ALTER DATABASE "{given.database}" ALLOW_CONNECTIONS true')
        await server.close()


def _named(url: Any) -> Settings:
    return Settings(encryption_key=KEY, database_url=url.render_as_string(hide_password=False))


async def test_a_read_only_database_makes_health_red(ledger_url: str, new_login_at: NewLogin) -> None:
    url = await new_login_at(ledger_url, "IN ROLE guestledger_runtime")
    administrator = await logs.connect(ledger_url)
    await administrator.execute(f"ALTER ROLE {make_url(url).username} SET default_transaction_read_only = on")
    await administrator.close()
    async with connect(Settings(encryption_key=KEY, database_url=url), scheduler=False) as ledger:
        async with refused(DatabaseProblem.READ_ONLY):
            await ledger.open_session(request())
        assert "it is read-only" in str((await ledger.health()).database)


async def test_an_append_that_failed_makes_health_red_until_one_succeeds(
    store: PostgresEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def disk_full(*_: object) -> list[Any]:
        raise DatabaseUnusable(DatabaseProblem.DISK_FULL, sqlstate="53100")

    await store.check()
    with monkeypatch.context() as failing:
        failing.setattr(store, "_until_answered", disk_full)
        async with refused(DatabaseProblem.DISK_FULL):
            await store.append(an_append())
    async with refused(DatabaseProblem.DISK_FULL):
        await store.check()
    await store.append(an_append())
    await store.check()


# Few connections


async def test_a_role_with_few_connections_gets_a_setting_and_a_clear_error(
    database_url: str, new_login_at: NewLogin, new_ledger: NewLedger
) -> None:
    url = await new_login_at(database_url, "IN ROLE guestledger_runtime CONNECTION LIMIT 3")
    async with new_ledger(database_url=url, database_connections=2, scheduler=True) as ledger:
        opened = await asyncio.gather(*(ledger.open_session(request()) for _ in range(30)))
        assert {session.status for session in opened} == {"active"}
    others = [await asyncpg.connect(url.replace("+asyncpg", "")) for _ in range(3)]
    async with refused(DatabaseProblem.NO_CONNECTION_LEFT), new_ledger(database_url=url):
        pass
    for other in others:
        await other.close()


# A host's codecs


def _as_text(kind: str) -> Callable[[Any, object], None]:
    def set_codec(adapted: Any, _record: object) -> None:
        adapted.run_async(
            lambda driver: driver.set_type_codec(kind, schema="pg_catalog", encoder=str, decoder=str, format="text")
        )

    return set_codec


@pytest.mark.parametrize("kind", ["uuid", "timestamptz", "int8", "bytea"])
async def test_an_engine_with_a_codec_of_its_own_is_refused(kind: str, ledger_url: str) -> None:
    engine: AsyncEngine = create_async_engine(ledger_url)
    event.listen(engine.sync_engine, "connect", _as_text(kind))
    with pytest.raises(UnfitEngine, match=f"have a codec of their own for {kind}"):
        async with connect(Settings(encryption_key=KEY), engine=engine):
            pass
    with pytest.raises(UnfitEngine, match="set_type_codec"):
        await upgrade_database(Settings(), engine=engine)
    await engine.dispose()
