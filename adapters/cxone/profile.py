"""What differs from one CXone tenant to another. The defaults are the wire contract, which no live tenant has confirmed."""

# ruff: noqa: S105 - names and paths with "token" in them, no tokens

import msgspec

from guestledger.engine.limits.retry import InDoubt


class TokenFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the wire calls the fields of a token answer."""

    access_token: str = "access_token"
    token_type: str = "token_type"
    expires_in: str = "expires_in"


class ChannelFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the wire calls the fields of a channel."""

    status: str = "status"
    protocols: str = "supportedProtocols"


class SessionFields(msgspec.Struct, frozen=True, kw_only=True):
    """What the wire calls the fields of a new session."""

    session_id: str = "sessionId"
    token: str = "token"
    expires_at: str = "expiresAt"
    status: str = "status"


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tenant's wire: paths, grant, scopes, names and waits. All waits are whole ms.

    Raises `ValueError` when the values cannot be used together; the text names the field.
    """

    token_path: str = "/oauth/token"
    channel_path: str = "/api/v2/channels/{channel_id}"
    session_path: str = "/api/v1/chat/sessions"

    grant: str = "client_credentials"
    token_scope: str | None = None
    """Sent as `scope` with the token request where a tenant asks for it; the contract sends none."""
    channel_scope: str = "channels:read"
    session_scope: str = "chat:write"
    """The two scopes that a 403 is traced back to."""

    session_quota: str = "sessions"
    channel_quota: str = "channels"
    token_quota: str = "token"
    """What limits are shared by, at one host: requests of one quota are throttled together. The same word makes it one."""

    idempotency_header: str = "Idempotency-Key"
    retry_after_header: str = "Retry-After"

    token_fields: TokenFields = TokenFields()
    channel_fields: ChannelFields = ChannelFields()
    session_fields: SessionFields = SessionFields()
    message_fields: tuple[str, ...] = ("message", "error_description", "error")
    """Where an error answer says what is wrong: the first that holds text is taken."""

    honours_idempotency_key: bool = False
    """Whether the server is known to make one session only for one key. The key is sent in any case."""
    in_doubt: InDoubt = InDoubt.RETRY_AND_RECORD
    """What follows an attempt whose answer was lost. `RETRY_WITH_KEY` takes a server that honours the key."""
    server_error_in_doubt: bool = True
    """Whether a 5xx leaves open if a session was made; if not, it counts as not made."""

    connect_ms: int = 3_000
    """For a connection to be had: waiting for a free one, DNS, TCP and TLS together."""
    total_ms: int = 10_000
    """For the whole of one request, `connect_ms` included."""
    token_early_ms: int = 60_000
    """How long before its end a token is replaced; half its lifetime when that is less."""
    token_backoff_ms: int = 100
    """The first wait between two tries for a token; doubled for the next, with jitter on top."""
    channel_ttl_ms: int = 30_000
    """How long a usable channel is remembered."""

    def __post_init__(self) -> None:
        for name in ("token_path", "channel_path", "session_path"):
            if not getattr(self, name).startswith("/"):
                raise ValueError(f"{name} must begin with '/'")
        if self.channel_path.count("{channel_id}") != 1:
            raise ValueError("channel_path must contain {channel_id} once")
        if self.in_doubt is InDoubt.RETRY_WITH_KEY and not self.honours_idempotency_key:
            raise ValueError("in_doubt must not be retry_with_key unless honours_idempotency_key is set")
        # A timeout on the way to a connection must never be taken for one after sending: the first request was
        # not sent, the second is in doubt. The shorter limit for the connection keeps the two apart.
        if not 0 < self.connect_ms < self.total_ms:
            raise ValueError("connect_ms must be more than 0 and less than total_ms")
