"""What differs between CXone tenants. The defaults are the wire contract, which no live tenant has confirmed."""

# ruff: noqa: S105 - names and paths with "token" in them, no tokens

import msgspec

from guestledger.adapters.http.token_source import TokenFields, TokenOptions
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.fields import check_fields
from guestledger.engine.limits.retry import InDoubt


class ChannelFields(msgspec.Struct, frozen=True, kw_only=True):
    """The names of a channel's fields."""

    status: str = "status"
    protocols: str = "supportedProtocols"


class SessionFields(msgspec.Struct, frozen=True, kw_only=True):
    """The names of a new session's fields."""

    session_id: str = "sessionId"
    token: str = "token"
    expires_at: str = "expiresAt"
    status: str = "status"


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tenant's paths, grant, scopes, names and time limits (whole ms).

    Raises `ValueError`, naming the field, for a value that does not fit.
    """

    token_path: str = "/oauth/token"
    channel_path: str = "/api/v2/channels/{channel_id}"
    session_path: str = "/api/v1/chat/sessions"

    grant: str = "client_credentials"
    token_scope: str | None = None
    channel_scope: str = "channels:read"
    session_scope: str = "chat:write"

    session_quota: str = "sessions"
    channel_quota: str = "channels"
    token_quota: str = "token"
    """Requests with the same quota name share a limiter."""

    idempotency_header: str = "Idempotency-Key"
    retry_after_header: str = "Retry-After"
    throttle_scope: ThrottleScope = ThrottleScope.QUOTA
    """What a 429 of the API speaks of: `quota` (all wait), `request` (only that session), or `auto`."""

    token_fields: TokenFields = TokenFields()
    channel_fields: ChannelFields = ChannelFields()
    session_fields: SessionFields = SessionFields()
    message_fields: tuple[str, ...] = ("message", "error_description", "error")
    """The first that holds text is the message of an error answer."""

    honours_idempotency_key: bool = False
    """Whether the server makes one session per key. The key is always sent."""
    in_doubt: InDoubt = InDoubt.RETRY_AND_RECORD
    """What follows a lost answer. `RETRY_WITH_KEY` requires `honours_idempotency_key`."""
    server_error_in_doubt: bool = True
    """Whether a 5xx may have made a session."""

    connect_ms: int = 3_000
    total_ms: int = 10_000
    """For a whole request, the connection included."""
    token_early_ms: int = 60_000
    token_backoff_ms: int = 100
    channel_ttl_ms: int = 30_000
    """How long a usable channel is cached."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("token_path", "channel_path", "session_path"):
            if not getattr(self, name).startswith("/"):
                raise ValueError(f"{name} must begin with '/'")
        if self.channel_path.count("{channel_id}") != 1:
            raise ValueError("channel_path must contain {channel_id} once")
        if self.in_doubt is InDoubt.RETRY_WITH_KEY and not self.honours_idempotency_key:
            raise ValueError("in_doubt must not be retry_with_key unless honours_idempotency_key is set")
        # A connection timeout means unsent, a total timeout in doubt: the total must not end first.
        if not 0 < self.connect_ms < self.total_ms:
            raise ValueError("connect_ms must be more than 0 and less than total_ms")

    @property
    def token_options(self) -> TokenOptions:
        """For the token endpoint."""
        return TokenOptions(
            grant=self.grant,
            scope=self.token_scope,
            fields=self.token_fields,
            refresh_early_ms=self.token_early_ms,
            backoff_ms=self.token_backoff_ms,
        )
