"""What an installation can set, from the environment."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from guestledger.engine.domain.errors import GuestledgerError
from guestledger.engine.domain.personal import Guarded, Personal
from guestledger.engine.limits.retry import InDoubt

PREFIX = "GUESTLEDGER_"

_LIMITS = ("calls", "calls_per_process")

SchemaName = Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}\Z")]
# A scheme is the same in capitals (RFC 3986, section 3.1).
SecretHttpUrl = Annotated[str, Meta(pattern=r"^(?i:https?)://[^\s/]", extra={"personal": True})]


class InvalidSettings(GuestledgerError):
    """A setting is missing or cannot be used. The text names the variable, never its value."""


class Settings(Guarded, frozen=True, kw_only=True):
    """Where the database, CXone and the webhook are. Each field is the variable `GUESTLEDGER_<FIELD>`.

    Raises `InvalidSettings` for a limit on calls that would let none through.
    """

    database_url: Personal | None = None
    """PostgreSQL; unset: the embedded one, with its data under `data_dir`."""
    migration_url: Personal | None = None
    """The same database, for whoever makes and upgrades the ledger; unset: `database_url`."""
    allow_owner: bool = False
    """Whether a database user will do that could change the log, so that nothing but triggers guards it."""
    data_dir: Path | None = None
    schema: SchemaName = "guestledger"
    cxone_url: SecretHttpUrl | None = None
    cxone_client_id: str = ""
    cxone_client_secret: Personal = ""
    cxone_in_doubt: InDoubt | None = None
    """What follows an attempt whose answer was lost, in place of what the policy and the profile say; `retry_with_key` says besides
    that CXone honours the key."""
    calls: Annotated[int, Meta(ge=1)] | None = None
    """The most look-ups and creations in flight over all processes, in place of `LimiterPolicy.calls`: the same for each of them."""
    calls_per_process: Annotated[int, Meta(ge=1)] | None = None
    """The most requests to CXone in flight from this process, in place of `LimiterPolicy.calls_per_process`."""
    webhook_url: SecretHttpUrl | None = None
    """Unset: no webhook is sent."""
    webhook_secret: Personal | None = None
    """Standard Webhooks secrets (base64, with or without `whsec_`), separated by blanks, newest first: each gives a signature,
    so that a receiver can go from one to the next. Unset: the webhook is not signed."""
    webhook_allow_private: bool = False
    """Whether the webhook may go to loopback, private and other addresses that are not public."""

    drain_seconds: Annotated[float, Meta(ge=0)] = 10.0
    """How long a scheduler that is told to stop may take to finish what is in flight. The rest is cut off and given back."""

    def __post_init__(self) -> None:
        # Where they are set from code too: a limit of 0 would be taken for none.
        for field in _LIMITS:
            number = getattr(self, field)
            if number is not None and number < 1:
                raise InvalidSettings(f"{PREFIX}{field.upper()} cannot be used: {_expected(field)}")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings in the environment. An empty variable counts as unset. Raises `InvalidSettings`."""
        names = {field: f"{PREFIX}{field.upper()}" for field in cls.__struct_fields__}
        given = {field: environ[name] for field, name in names.items() if environ.get(name)}
        try:
            return msgspec.convert(given, cls, strict=False, dec_hook=lambda kind, value: kind(value))
        except msgspec.ValidationError as error:
            field = str(error).rpartition("`$.")[2].rstrip("`")
            raise InvalidSettings(f"{names.get(field, PREFIX)} cannot be used: {_expected(field)}") from None

    def require_cxone(self) -> None:
        """Raise `InvalidSettings` unless CXone's address and credentials are set."""
        for field in ("cxone_url", "cxone_client_id", "cxone_client_secret"):
            if not getattr(self, field):
                raise InvalidSettings(f"{PREFIX}{field.upper()} is not set: CXone cannot be reached without it")


def _expected(field: str) -> str:
    if field == "schema":
        return "a schema's name is lower-case letters, digits and underscores, at most 63"
    if field == "cxone_in_doubt":
        return f"it is to be one of {', '.join(InDoubt)}"
    if field in ("allow_owner", "webhook_allow_private"):
        return "it is to be 1 or 0"
    if field in _LIMITS:
        return "it is to be a whole number, 1 or more"
    if field == "drain_seconds":
        return "it is to be a number of seconds, 0 or more"
    return "it is to be a URL such as https://host/path"
