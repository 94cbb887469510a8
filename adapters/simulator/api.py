"""The simulated API: from requests to replies and their delays. No I/O."""

import secrets
import time
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from guestledger.adapters.simulator.config import SimulatorConfig
from guestledger.adapters.simulator.payload import Creation, read_creation
from guestledger.engine.domain.personal import SecretBytes

DROPPED = 0
"""The status of a reply that drops the connection."""
_HUGE = "99999999999999999999"


class Reply(NamedTuple):
    """An answer after `delay_s` seconds."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0


class Made(NamedTuple):
    """A session that was made, and its answer."""

    session_id: str
    answer: bytes


class SimulatedApi:
    """Tokens, channels and sessions. `config` may be replaced at any time."""

    def __init__(self, config: SimulatorConfig, client_id: str, client_secret: str) -> None:
        self.config = config
        self.sessions_by_key: dict[str, list[Made]] = {}
        self._client = (client_id, client_secret)
        self._tokens: dict[str, float] = {}
        self._met: Counter[tuple[str, str]] = Counter()
        self._admitted: deque[float] = deque()

    def revoke_tokens(self) -> None:
        """Refuse every token issued so far."""
        self._tokens.clear()

    def issue_token(self, body: bytes) -> Reply:
        """`POST /oauth/token`."""
        form = {name: values[0] for name, values in parse_qs(body.decode("ascii", "replace")).items()}
        if form.get("grant_type") != "client_credentials":
            return _error(400, "unsupported_grant_type")
        if (form.get("client_id"), form.get("client_secret")) != self._client:
            return _error(401, "invalid_client")
        if self._is_among_first("token throttle", "", self.config.token_throttle_times):
            return self._throttled()
        if self._is_among_first("token", "", self.config.token_errors):
            return self._down("the token endpoint is down", 503)
        token = f"eyJ{secrets.token_urlsafe(24)}"
        lifetime_s = self.config.token_lifetime_s
        self._tokens[token] = time.monotonic() + lifetime_s
        shown = int(lifetime_s) if lifetime_s == int(lifetime_s) else lifetime_s
        return _json(200, {"access_token": token, "token_type": "Bearer", "expires_in": shown})

    def show_channel(self, channel_id: str, authorization: str) -> Reply:
        """`GET /api/v2/channels/{channelId}`."""
        config, delay_s = self.config, self.config.slow_ms / 1_000
        if refusal := self._refusal(authorization, "channels:read"):
            return refusal
        if self._is_among_first("channel throttle", channel_id, config.channel_throttle_times):
            return self._throttled()
        if self._is_among_first("channel error", channel_id, config.channel_errors):
            return _error(500, "the channel service is down")
        status, protocols = self._channel(channel_id)
        if status is None:
            return _error(404, "no such channel")
        return _json(
            200,
            {
                "id": channel_id,
                "name": "Primary Web Messaging Channel",
                "status": status,
                "supportedProtocols": protocols,
                "createdAt": "2023-11-15T08:30:00Z",
            },
            delay_s,
        )

    def create_session(self, body: bytes, key: str | None, content_type: str, authorization: str) -> Reply:
        """`POST /api/v1/chat/sessions`, with the faults that select `key`."""
        config = self.config
        if not key:
            return _error(400, "the header Idempotency-Key is missing")
        if self._meets("drop_before", config.drop_before_share, key, config.fault_times):
            return Reply(DROPPED)
        if refusal := self._refusal(authorization, "chat:write"):
            return refusal
        if content_type.partition(";")[0] != "application/json":
            return _error(400, "the body must be application/json")
        try:
            creation = read_creation(body)
        except ValueError as error:
            return _error(400, str(error))
        status, protocols = self._channel(creation.channel_id)
        if status is None:
            return _error(404, "no such channel")
        if status != "active" or "web_chat" not in protocols:
            return _error(422, "the channel takes no web chat")
        return self._create(creation, key)

    def _create(self, creation: Creation, key: str) -> Reply:
        if not self.config.quota:
            return self._faulty_or_made(creation, key)
        left = self._left_of_quota()
        if left:
            self._admitted.append(time.monotonic())
        late = self._throttled()._replace(delay_s=self.config.slow_ms / 1_000)
        reply = self._faulty_or_made(creation, key) if left else late
        return reply._replace(headers=(*reply.headers, *self._rate_limit(max(0, left - 1))))

    def _left_of_quota(self) -> int:
        while self._admitted and self._admitted[0] <= time.monotonic() - 1:
            self._admitted.popleft()
        return max(0, self.config.quota - len(self._admitted))

    def _rate_limit(self, left: int) -> list[tuple[str, str]]:
        if not self.config.rate_limit_headers:
            return []
        return [("RateLimit-Policy", f'"second";q={self.config.quota};w=1'), ("RateLimit", f'"second";r={left};t=1')]

    def _faulty_or_made(self, creation: Creation, key: str) -> Reply:
        config = self.config
        if self._meets("throttle", config.throttle_share, key, config.throttle_times):
            return self._throttled()
        fails = self._meets("server_error", config.server_error_share, key, config.fault_times)
        if fails and not config.error_after_processing:
            return self._down("the session service is down")
        reply = self._process(creation, key)
        if fails:
            return self._down("the session service went down")
        if self._meets("hang", config.hang_share, key, config.fault_times):
            return reply._replace(delay_s=config.hang_s)
        if self._meets("drop", config.drop_share, key, config.fault_times):
            return Reply(DROPPED)
        return reply

    def _process(self, creation: Creation, key: str) -> Reply:
        made = self.sessions_by_key.setdefault(key, [])
        delay_s = self.config.slow_ms / 1_000
        if made and self.config.honour_idempotency_key:
            return Reply(200, made[0].answer, delay_s=delay_s)
        session_id = f"sess_{secrets.token_hex(8)}"
        answer = SecretBytes(
            msgspec.json.encode(
                {
                    "sessionId": session_id,
                    "token": f"gt_{secrets.token_hex(12)}",
                    "expiresAt": self._expiry(),
                    "channelId": creation.channel_id,
                    "status": "active",
                }
            )
        )
        made.append(Made(session_id, answer))
        return Reply(201, answer, delay_s=delay_s)

    def _expiry(self) -> datetime:
        """Whole seconds as in the contract, unless the lifetime has a fraction."""
        lifetime_s = self.config.session_lifetime_s
        expires_at = datetime.now(UTC) + timedelta(seconds=self.config.clock_offset_s + lifetime_s)
        return expires_at.replace(microsecond=0) if lifetime_s == int(lifetime_s) else expires_at

    def _channel(self, channel_id: str) -> tuple[str | None, list[str]]:
        config = self.config
        if not channel_id.startswith("ch_") or channel_id.startswith("ch_unknown"):
            return None, []
        if channel_id in config.unknown_channels:
            return None, []
        status = "inactive" if channel_id in config.inactive_channels else "active"
        return status, ["sms"] if channel_id in config.channels_without_web_chat else ["web_chat", "sms"]

    def _refusal(self, authorization: str, scope: str) -> Reply | None:
        scheme, _, token = authorization.partition(" ")
        good = scheme == "Bearer" and self._tokens.get(token, 0.0) > time.monotonic()
        if not good or self.config.refuse_tokens:
            return _error(401, "the access token is expired, revoked or unknown")
        if scope in self.config.missing_scopes:
            return _error(403, "the client may not do this")
        return None

    def _throttled(self) -> Reply:
        form, wait_s = self.config.retry_after, self.config.retry_after_s
        now = int(time.time() + self.config.clock_offset_s)
        forms = {
            "seconds": str(wait_s),
            "date": formatdate(now + wait_s, usegmt=True),
            "negative": "-5",
            "huge": _HUGE,
            "nonsense": "after a while",
        }
        # Clients read an HTTP-date relative to the response's own date (RFC 9110, section 10.2.3).
        headers = [("Date", formatdate(now, usegmt=True))]
        if form != "absent":
            headers.append(("Retry-After", forms.get(form, form)))
        return _error(429, "too many requests")._replace(headers=tuple(headers))

    def _down(self, message: str, status: int = 500) -> Reply:
        asked = self.config.error_retry_after
        return _error(status, message)._replace(headers=() if asked is None else (("Retry-After", asked),))

    def _meets(self, fault: str, share: float, key: str, times: int) -> bool:
        return self.config.meets(fault, share, key) and self._is_among_first(fault, key, times)

    def _is_among_first(self, fault: str, key: str, times: int) -> bool:
        if self._met[fault, key] >= times:
            return False
        self._met[fault, key] += 1
        return True


def _json(status: int, body: Any, delay_s: float = 0.0) -> Reply:
    return Reply(status, SecretBytes(msgspec.json.encode(body)), delay_s=delay_s)


def _error(status: int, message: str) -> Reply:
    return _json(status, {"message": message})
