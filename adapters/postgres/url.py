"""Database URLs: libpq's parameters, as hosting services hand them out, for the driver."""

import getpass
import os
import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any
from urllib.parse import unquote, urlencode

from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from guestledger.adapters.postgres.errors import STATEMENT_CACHE, unreachable
from guestledger.adapters.postgres.unusable import DATABASE_URL
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import ServiceUnreachable

_CONNECT_SECONDS = 10
_MAX_PORT = 65_535

# The driver reads these as libpq does.
_PASSED = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "database",
    "passfile",
    "service",
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "target_session_attrs",
    "krbsrvname",
    "gsslib",
    "application_name",
    "options",
]
# Ours, or with a value that changes nothing here.
_READ = (
    "ssl",
    "connect_timeout",
    STATEMENT_CACHE,
    "statement_cache_size",
    "channel_binding",
    "gssencmode",
    "client_encoding",
)
_NUMBERS = ("connect_timeout", STATEMENT_CACHE, "statement_cache_size")
_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
_VALUES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "gsslib": ("gssapi", "sspi"),
}
"""All values of a parameter. The driver also reads each from a variable, such as `PGSSLMODE`."""
_WITH_TLS = ("require", "verify-ca", "verify-full")
_INSTEAD = {
    "keepalives": "set it in the operating system",
    "keepalives_idle": "set it in the operating system",
    "keepalives_interval": "set it in the operating system",
    "keepalives_count": "set it in the operating system",
    "tcp_user_timeout": "set it in the operating system",
    "fallback_application_name": "write application_name",
    "pgbouncer": f"write {STATEMENT_CACHE}=0",
    "schema": "set GUESTLEDGER_SCHEMA",
    "connection_limit": "set GUESTLEDGER_DATABASE_CONNECTIONS",
    "pool_size": "set GUESTLEDGER_DATABASE_CONNECTIONS",
    "sslcompression": "", "sslsni": "", "requirepeer": "", "require_auth": "", "load_balance_hosts": "", "replication": "",
    "gssdelegation": "", "sslcertmode": "", "command_timeout": "", "timeout": "write connect_timeout",
}  # fmt: skip
"""Parameters that are not supported, and what to do instead."""

_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_HARMLESS_MODES = ("disable", "prefer")  # the only other one is `require`
_HARMLESS = {
    "channel_binding": (_HARMLESS_MODES, "sslmode=verify-full protects the connection"),
    "gssencmode": (_HARMLESS_MODES, "use TLS"),
    "client_encoding": (("utf8", "utf-8", "unicode", "auto"), "the ledger needs UTF8"),
}
"""The values that can be ignored, and what to do instead of others."""

# Several hosts, which SQLAlchemy accepts as a parameter only.
_SEVERAL_HOSTS = re.compile(
    r"^(?P<before>[^/?]+://(?:[^/?]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<after>[/?].*)?$", re.DOTALL
)

_HOST = re.compile(r"(?P<name>\[[^\]]+\]|[^:\[]+)(?::(?P<port>\d+))?", re.ASCII)


def database_url(text: str, setting: str = DATABASE_URL) -> URL:
    """Parse a URL with any driver, for SQLAlchemy's asyncpg dialect and `connect_arguments`.

    `setting` names the URL's setting. Raises `ServiceUnreachable`.
    """
    hosts = ""
    if several := _SEVERAL_HOSTS.match(text):
        hosts = several["hosts"]
        text = several["before"] + (several["after"] or "")
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        detail = f"{setting} is not a URL such as postgresql://user@host/database"
        raise unreachable(Cause.INVALID_HOST, detail) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise unreachable(
            Cause.INVALID_HOST, f"{setting} names {url.get_backend_name()!r}; only PostgreSQL is supported"
        )
    if hosts:
        found = [_host(unquote(host), setting) for host in hosts.split(",")]
        names = ",".join(one["name"] for one in found)
        url = url.update_query_dict({"host": names, "port": ",".join(one["port"] or "5432" for one in found)})
    connect_arguments(url, setting)
    _check_user(url, setting)
    return url.set(drivername="postgresql+asyncpg")


def _check_user(url: URL, setting: str) -> None:
    # The driver takes the name of this process's user then. In a container it may have none.
    if url.username is not None or url.query.keys() & {"user", "service"} or os.environ.get("PGUSER"):
        return
    try:
        getpass.getuser()
    except (KeyError, OSError):
        detail = f"{setting} names no user, and this process's user {os.getuid()} has no name"
        raise unreachable(Cause.NOT_CONFIGURED, detail) from None


def connect_arguments(url: URL, setting: str = DATABASE_URL) -> dict[str, Any]:
    """Return the driver's arguments for a URL. Raises `ServiceUnreachable` for a parameter that is not supported."""
    given = {name: _single(name, value) for name, value in url.query.items()}
    for name, value in given.items():
        _check(name, value, setting)
    _check_hosts(given.get("host"), given.get("port", None if url.port is None else str(url.port)), setting)
    passed = {name: value for name, value in given.items() if name in _PASSED}
    if "ssl" in given:
        passed.setdefault("sslmode", "require" if given["ssl"] == "true" else given["ssl"])
    own = {"host": url.host, "port": url.port, "user": url.username, "password": url.password, "database": url.database}
    arguments: dict[str, Any] = {name: value for name, value in own.items() if value}
    if passed:
        arguments["dsn"] = f"postgresql:///?{urlencode(passed)}"
    if str(given.get("host", url.host)).startswith("/") and "sslmode" not in passed:
        arguments["ssl"] = False  # a socket has no TLS: libpq ignores `PGSSLMODE` there, the driver does not
    _check_tls_and_variables(passed, setting, socket="ssl" in arguments)
    seconds = int(given.get("connect_timeout", _CONNECT_SECONDS))
    arguments["timeout"] = seconds if seconds > 0 else None
    return arguments


def keeps_statements(url: URL) -> bool:
    """Whether prepared statements may outlive their transaction."""
    return "0" not in (url.query.get(STATEMENT_CACHE), url.query.get("statement_cache_size"))


def _single(name: str, value: str | tuple[str, ...]) -> str:
    if isinstance(value, str):
        return value
    return ",".join(value) if name in ("host", "port") else value[-1]


def _check(name: str, value: str, setting: str) -> None:
    if name in _HARMLESS:
        ignored, instead = _HARMLESS[name]
        if ignored is _HARMLESS_MODES and value not in (*ignored, "require"):
            raise _not_one_of(f"{name} in {setting}", ignored)
        if value.lower() not in ignored:
            raise _unsupported(f"{name}={value}" if value.isalpha() else name, setting, instead)
    elif name in _VALUES or name == "ssl":
        if value not in (allowed := _VALUES.get(name, ("true", *_VALUES["sslmode"]))):
            raise _not_one_of(f"{name} in {setting}", allowed)
    elif name in _NUMBERS:
        if not re.fullmatch(r"-?\d{1,9}", value, re.ASCII):
            raise unreachable(Cause.SERVICE_UNAVAILABLE, f"{name} in {setting} must be a whole number")
    elif (name, value) == ("sslrootcert", "system"):
        raise _unsupported("sslrootcert=system", setting, "name the file with the certificates of your system")
    elif name in _FILES:
        if not os.access(value, os.R_OK):
            raise unreachable(Cause.SERVICE_UNAVAILABLE, f"the file that {name} in {setting} names cannot be read")
    elif name not in _PASSED and name not in _READ:
        # An unknown name may be a piece of a password that is not percent-encoded.
        if name in _INSTEAD:
            raise _unsupported(name, setting, _INSTEAD[name])
        close = get_close_matches(name, [*_PASSED, *_READ], n=1)
        meant = f": did you mean {close[0]}?" if close else ": percent-encode `?`, `#`, `@` and `/` in the password"
        raise unreachable(Cause.SERVICE_UNAVAILABLE, f"{setting} has a parameter that PostgreSQL does not know{meant}")


def _check_hosts(hosts: str | None, ports: str | None, setting: str) -> None:
    names = [_host(host, setting)["name"] for host in hosts.split(",")] if hosts else [""]
    numbers = ports.split(",") if ports else []
    if not all(re.fullmatch(r"\d{1,5}", number, re.ASCII) and 0 < int(number) <= _MAX_PORT for number in numbers):
        raise unreachable(
            Cause.SERVICE_UNAVAILABLE, f"a port in {setting} must be a whole number from 1 to {_MAX_PORT}"
        )
    if len(numbers) > 1 and len(numbers) != len(names):
        detail = f"{setting} names {len(numbers)} ports and {len(names)} hosts: name one port, or one for each host"
        raise unreachable(Cause.SERVICE_UNAVAILABLE, detail)


def _host(text: str, setting: str) -> re.Match[str]:
    if found := _HOST.fullmatch(text):
        return found
    raise unreachable(
        Cause.SERVICE_UNAVAILABLE, f"a host in {setting} cannot be read: write name, name:port or [address]:port"
    )


def _check_tls_and_variables(passed: dict[str, str], setting: str, *, socket: bool) -> None:
    for name, allowed in _VALUES.items():
        variable = f"PG{name.replace('_', '').upper()}"
        found = os.environ.get(variable)
        if found and name not in passed and found not in allowed and not (socket and name.startswith("ssl")):
            raise _not_one_of(f"the environment variable {variable}", allowed)
    mode = passed.get("sslmode") or os.environ.get("PGSSLMODE")
    if passed.get("sslnegotiation") == "direct" and mode not in _WITH_TLS:
        raise unreachable(
            Cause.SERVICE_UNAVAILABLE, f"sslnegotiation=direct in {setting} needs an sslmode of {_either(_WITH_TLS)}"
        )


def _not_one_of(what: str, allowed: Sequence[str]) -> ServiceUnreachable:
    return unreachable(Cause.SERVICE_UNAVAILABLE, f"{what} must be {_either(allowed)}")


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"


def _unsupported(what: str, setting: str, instead: str) -> ServiceUnreachable:
    advice = f", and {instead}" if instead else ""
    return unreachable(Cause.SERVICE_UNAVAILABLE, f"{what} in {setting} is not supported: leave it out{advice}")
