"""The settings of an installation, from the environment or from code."""

import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from guestledger.adapters.log_format import LogFormat
from guestledger.engine.domain.errors import GuestledgerError
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.domain.policy import MAX_RETENTION_DAYS
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.fields import InvalidField, check_fields
from guestledger.engine.limits.retry import InDoubt

PREFIX = "GUESTLEDGER_"


# Kubernetes describes a service named guestledger, or guestledger-…, in such variables to every pod beside it. The last ones
# are our tests'.
_OTHERS = re.compile(
    rf"{PREFIX}(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
    rf"|{PREFIX}TEST_\w+"
)

# PostgreSQL's own schemas begin with `pg_` or are `information_schema`.
_SCHEMA_NAME = r"^(?!pg_|information_schema\Z)[a-z_][a-z0-9_]{0,62}\Z"
SchemaName = Annotated[str, Meta(pattern=_SCHEMA_NAME)]
# Schemes are case-insensitive (RFC 3986, section 3.1).
SecretHttpUrl = Annotated[str, Meta(pattern=r"^(?i:https?)://[^\s/]", extra={"personal": True})]


class InvalidSettings(GuestledgerError):
    """A setting is missing or invalid. The text names its variable, never its value."""


class Settings(Guarded, frozen=True, kw_only=True):
    """The configuration of a ledger. Each field is the variable `GUESTLEDGER_<FIELD>`.

    Raises `InvalidSettings` for a value that does not fit.
    """

    database_url: Personal | None = None
    """PostgreSQL. Default: the embedded server, with its data in `data_dir`."""
    migration_url: Personal | None = None
    """The same database, for the role that creates and upgrades the ledger. Default: `database_url`."""
    database_connections: Annotated[int, Meta(ge=2)] = 8
    """The maximum of connections of one process to the database. Hints take one more."""
    allow_owner: bool = False
    """Accept a database user who can modify the log. Then only triggers protect it."""
    data_dir: Path | None = None
    """The directory of the embedded database."""
    vault_url: Personal | None = None
    """The PostgreSQL database of the key vault. Default: the ledger's own."""
    encryption_key: Personal | None = None
    """The key-encryption key for personal data: 32 random bytes in base64, the same for every process. For rotation several,
    separated by spaces, newest first."""
    encryption_key_file: Path | None = None
    """A file with that key or keys, readable by its owner only. Default for the embedded database: made beside `data_dir`."""
    encryption_kms_key: str | None = None
    """A key of AWS KMS, by ARN or `alias/…`: it makes and wraps the key-encryption key. For another one, put it before the old."""
    erasure_journal: Path | None = None
    """A file outside the database that lists the erasures. A ledger whose database lacks one of them is not opened."""
    schema: SchemaName = "guestledger"
    """The schema that holds the ledger."""
    cxone_url: SecretHttpUrl | None = None
    """The root of CXone's API."""
    cxone_client_id: str = ""
    """The id of the API client. Required with `cxone_url` where due steps run."""
    cxone_client_secret: Personal = ""
    """The secret of the API client. Required as the id is."""
    cxone_in_doubt: InDoubt | None = None
    """What follows an attempt in doubt; overrides policy and profile. `retry_with_key` also says that CXone honours the key."""
    throttle_scope: ThrottleScope | None = None
    """What a 429 of CXone speaks of. Overrides `Profile.throttle_scope`."""
    calls: Annotated[int, Meta(ge=1)] | None = None
    """The maximum of look-ups and creations in flight over all processes. Overrides `LimiterPolicy.calls`."""
    calls_per_process: Annotated[int, Meta(ge=1)] | None = None
    """The maximum of requests to CXone in flight from one process. Overrides `LimiterPolicy.calls_per_process`."""
    consent_terms: Path | None = None
    """A TOML file with what each consent is recorded with. Overrides `Policy.consent_terms`."""
    webhook_url: SecretHttpUrl | None = None
    """The receiver of the analytics webhook. Default: no webhook is sent."""
    webhook_secret: Personal | None = None
    """Standard Webhooks secrets (base64, `whsec_` optional), separated by spaces, newest first. Each adds a signature,
    for rotation. Default: no signature."""
    webhook_allow_private: bool = False
    """Allow loopback, private and other non-public addresses for the webhook."""
    retention_days: Annotated[int, Meta(ge=0, le=MAX_RETENTION_DAYS)] | None = None
    """How long contact data is kept after a session's end; a worker erases it then. The same for every process. Default:
    it is kept until somebody erases it. Overrides `Policy.retention_days`."""

    drain_seconds: Annotated[float, Meta(ge=0)] = 10.0
    """How long a stopping scheduler waits for work in flight. Other workers take over the rest."""
    log_format: LogFormat = LogFormat.TEXT
    """How the log lines of the command look, as with `--log-format`. A host formats its own: see `docs/observability.md`."""

    def __post_init__(self) -> None:
        # Secrets in files and variables often end in a line break.
        for field in self.__struct_fields__:
            value = getattr(self, field)
            if isinstance(value, str) and not isinstance(value, StrEnum):
                kept = value.strip() if field.endswith("_url") else value.rstrip("\r\n")
                msgspec.structs.force_setattr(self, field, kept)
        try:
            check_fields(self)
        except InvalidField as error:
            raise _invalid(error.field) from None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """Read the settings from the environment. An empty variable counts as unset.

        Raise `InvalidSettings`, also for a misspelt variable with our prefix.
        """
        for name, value in environ.items():
            if value and name.startswith(PREFIX):
                _check_known(name)
        given = {
            field: text for field in cls.__struct_fields__ if (text := environ.get(variable(field), "").rstrip("\r\n"))
        }
        try:
            return msgspec.convert(given, cls, strict=False, dec_hook=lambda kind, value: kind(value))
        except msgspec.ValidationError as error:
            raise _invalid(str(error).rpartition("`$.")[2].rstrip("`")) from None

    def require_cxone(self) -> None:
        """Raise `InvalidSettings` unless CXone's URL and credentials are set."""
        for field in ("cxone_url", "cxone_client_id", "cxone_client_secret"):
            if not getattr(self, field):
                raise InvalidSettings(f"{variable(field)} is not set: CXone cannot be used without it")


def variable(field: str) -> str:
    """Return the environment variable of a field."""
    return f"{PREFIX}{field.upper()}"


def _check_known(name: str) -> None:
    known = [variable(field) for field in Settings.__struct_fields__]
    if name in known or _OTHERS.fullmatch(name):
        return
    nearest = get_close_matches(name.upper(), known, n=1, cutoff=0)
    raise InvalidSettings(f"{name} is not a setting: did you mean {nearest[0]}?")


def _invalid(field: str) -> InvalidSettings:
    return InvalidSettings(f"{variable(field)} is invalid: it must be {_EXPECTED.get(field, 'text')}")


_EXPECTED = {
    "schema": "1 to 63 lower-case letters, digits and underscores, and none of PostgreSQL's own",
    "cxone_in_doubt": f"one of {', '.join(InDoubt)}",
    "throttle_scope": f"one of {', '.join(ThrottleScope)}",
    "log_format": f"one of {', '.join(LogFormat)}",
    **dict.fromkeys(("cxone_url", "webhook_url"), "a URL such as https://host/path"),
    **dict.fromkeys(("data_dir", "encryption_key_file", "erasure_journal", "consent_terms"), "a path"),
    **dict.fromkeys(("allow_owner", "webhook_allow_private"), "1 or 0, in code True or False"),
    "retention_days": f"a whole number of days, 0 to {MAX_RETENTION_DAYS}",
    "drain_seconds": "a number of seconds, 0 or more",
    "database_connections": "a whole number, 2 or more",
    **dict.fromkeys(("calls", "calls_per_process"), "a whole number, 1 or more"),
}
