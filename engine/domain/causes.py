"""Causes as stable codes, without sentences."""

from enum import StrEnum


class Cause(StrEnum):
    """Why a request failed, or a session has its status.

    Stored in events: a released value never changes its meaning.
    """

    CONSENT_REFUSED = "consent_refused"
    CHANNEL_UNKNOWN = "channel_unknown"
    CHANNEL_INACTIVE = "channel_inactive"
    CHANNEL_UNSUPPORTED = "channel_unsupported"
    """The detail names the missing capability."""

    THROTTLED = "throttled"
    REJECTED = "rejected"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    """A permission is missing; the detail names it."""
    SCOPE_REFUSED = "scope_refused"
    """The credentials are right, but not for this scope."""
    KEY_REFUSED = "key_refused"
    """The key-encryption key does not open the key vault's keys."""
    GRANT_REFUSED = "grant_refused"
    """The credentials are right, but not for this grant."""
    REDIRECTED = "redirected"
    SERVER_ERROR = "server_error"
    TOO_EARLY = "too_early"
    REQUEST_TIMEOUT = "request_timeout"
    """The server stopped waiting for the request."""
    UNREADABLE_ANSWER = "unreadable_answer"
    NOT_ACCEPTED = "not_accepted"
    """The webhook receiver answered, but not with a success."""

    NO_ADDRESS = "no_address"
    """The host name has no address (DNS)."""
    INVALID_HOST = "invalid_host"
    ADDRESS_REFUSED = "address_refused"
    """The address is not public; the detail names its kind."""
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_TIMEOUT = "connection_timeout"
    TLS_FAILED = "tls_failed"
    ANSWER_TIMEOUT = "answer_timeout"
    CONNECTION_LOST = "connection_lost"
    PROTOCOL_ERROR = "protocol_error"
    """What came back is not HTTP."""

    LEASE_LOST = "lease_lost"
    NOT_CONFIGURED = "not_configured"
    """The settings give no access to the service."""
    NOT_READY = "not_ready"
    """The service answers, but has to be set up first."""
    SERVICE_UNAVAILABLE = "service_unavailable"
    """Another service, such as the token endpoint, could not be used."""
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - a code, not a token
    """The provider refused the access token, and the request was not sent again."""
    PROCESS_ENDED = "process_ended"
    """The process ended before the answer was recorded."""
    OVERTAKEN = "overtaken"
    """An older attempt brought the session before this one was answered."""
    SESSION_KNOWN = "session_known"
    """The answer names a session that is recorded already; the detail is its id."""
    RATE_LIMITED = "rate_limited"

    TOO_MANY_FAILURES = "too_many_failures"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    RETRY_DECIDED = "retry_decided"
    ABANDONMENT_DECIDED = "abandonment_decided"
    GUEST_ERASED = "guest_erased"
    """The guest's personal data was erased."""
    CONSENT_WITHDRAWN = "consent_withdrawn"

    RECEIVER_GONE = "receiver_gone"
    """The receiver wants no more notices (410)."""
    WAIT_TOO_LONG = "wait_too_long"
    """The receiver asked for more than the policy allows."""
