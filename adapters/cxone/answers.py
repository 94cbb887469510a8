"""From the wire's words to the domain's: what an answer, or the lack of one, means. Pure, no I/O."""

import re
from datetime import datetime
from typing import Annotated, Any, TypeVar

import aiohttp
import msgspec
from msgspec import Meta

from guestledger.adapters.cxone.profile import Profile
from guestledger.engine.domain.events import FailureKind
from guestledger.engine.domain.outcomes import Failed, Throttled
from guestledger.engine.domain.personal import Guarded, PersonalBytes
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.limits.retry import read_retry_after

MESSAGE_LIMIT = 200
# What may go wrong between handing a request over and having its answer. `TimeoutError` is an `OSError`.
WIRE_ERRORS = (aiohttp.ClientError, OSError)
# These, and only these, come before the first byte of the request: refused, no such host, TLS, no connection in time.
UNSENT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

_NO_CONTROLS = r"^[^\x00-\x1f\x7f]+\Z"
_SECRET = {"personal": True}
Word = Annotated[str, Meta(max_length=256, pattern=_NO_CONTROLS)]
GuestToken = Annotated[str, Meta(max_length=16_384, pattern=_NO_CONTROLS, extra=_SECRET)]
BearerToken = Annotated[str, Meta(max_length=16_384, pattern=r"^[\x21-\x7e]+\Z", extra=_SECRET)]
"""Printable ASCII without blanks (RFC 6750, section 2.1), so that it cannot break out of a header."""


class TokenAnswer(Guarded, frozen=True, kw_only=True):
    """What is read of a token answer. `expires_in` is the lifetime in seconds."""

    access_token: BearerToken
    token_type: str = "Bearer"  # noqa: S105 - a kind, not a token
    expires_in: Annotated[float, Meta(gt=0)]


class ChannelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a channel."""

    status: Word
    protocols: tuple[Word, ...]


class SessionAnswer(Guarded, frozen=True, kw_only=True):
    """What is read of a new session. A time without an offset is refused: nobody could say when it is."""

    session_id: Word
    token: GuestToken
    expires_at: Annotated[datetime, Meta(tz=True)]
    status: Word


AnswerT = TypeVar("AnswerT", bound=msgspec.Struct)


def answer_decoder(kind: type[AnswerT], names: msgspec.Struct) -> msgspec.json.Decoder[AnswerT]:
    """A decoder for `kind` under the wire's `names`. Fields it does not know are passed over."""
    fields = [
        (field.name, field.type) if field.required else (field.name, field.type, field.default)
        for field in msgspec.structs.fields(kind)
    ]
    renamed = msgspec.defstruct(
        kind.__name__, fields, bases=(kind,), rename=msgspec.structs.asdict(names), frozen=True, kw_only=True
    )
    return msgspec.json.Decoder(renamed)


class Answer(Guarded, frozen=True, kw_only=True):
    """An HTTP answer. `body` is `None` when it could not be had in full, or is larger than any real answer."""

    status: int
    retry_after: str | None
    date: str | None
    body: PersonalBytes | None
    drained: ExhaustedQuota | None = None

    @property
    def ok(self) -> bool:
        """2xx."""
        return 200 <= self.status < 300


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is for, and so what is to be concluded when it fails."""

    name: str
    scope: str
    lost: FailureKind
    """It was sent, and what came of it is not known."""
    fault: FailureKind
    """5xx."""


def failure(answer: Answer, purpose: Purpose, profile: Profile, token: str, now: datetime) -> Throttled | Failed:
    """What an answer other than success means (contract, "Answers that are not success")."""
    status = answer.status
    asked = read_retry_after(answer.retry_after, answer.date, now)
    if status == 429:
        return Throttled(status=status, retry_after=asked, drained=answer.drained)
    kind, text = _meaning(status, purpose)
    said = said_by_server(answer.body, profile, token)
    # Absent, it leaves the wait to the retry policy; and what is final is not waited for.
    heeded = None if kind.is_final or asked.given is None else asked
    message = f"{text}: {said}" if said else text
    return Failed(kind=kind, status=status, message=message, retry_after=heeded, drained=answer.drained)


def _meaning(status: int, purpose: Purpose) -> tuple[FailureKind, str]:
    if status == 401:
        return FailureKind.UNAUTHORIZED, (
            "Authentication token expired. Refresh required. CXone refused (HTTP 401) a token it had just issued: "
            "check that the client is still allowed in"
        )
    if status == 403:
        return FailureKind.FORBIDDEN, (
            f"CXone refused the {purpose.name} (HTTP 403): check that the client has the scope {purpose.scope}"
        )
    if 300 <= status < 400:
        return FailureKind.REJECTED, (
            f"CXone answered the {purpose.name} with a redirect (HTTP {status}), which is not followed: "
            "check GUESTLEDGER_CXONE_URL"
        )
    if status == 425:
        return FailureKind.UNAVAILABLE, f"CXone will not take the {purpose.name} yet (HTTP 425)"
    if status == 408:
        return purpose.lost, f"CXone gave up waiting for the {purpose.name} (HTTP 408)"
    if 400 <= status < 500:
        return FailureKind.REJECTED, f"CXone rejected the {purpose.name} (HTTP {status})"
    return purpose.fault, f"CXone failed at the {purpose.name} (HTTP {status})"


def unreadable(answer: Answer, purpose: Purpose, why: str) -> Failed:
    """A success that cannot be read: whatever was asked for may have been done."""
    message = f"CXone answered the {purpose.name} with HTTP {answer.status}, but the answer cannot be read: {why}"
    return Failed(kind=purpose.lost, status=answer.status, message=message, drained=answer.drained)


def no_answer(error: Exception, purpose: Purpose, profile: Profile) -> Failed:
    """The meaning of one of `WIRE_ERRORS`."""
    kind = FailureKind.UNSENT if isinstance(error, UNSENT_ERRORS) else purpose.lost
    return Failed(kind=kind, status=None, message=f"{purpose.name}: {cause(error, profile)}")


def cause(error: Exception, profile: Profile) -> str:
    """One of `WIRE_ERRORS` in a few words of our own: aiohttp's may quote URLs, headers and bodies."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return f"no connection to CXone within {profile.connect_ms} ms"
        case TimeoutError():
            return f"no answer from CXone within {profile.total_ms} ms"
        case aiohttp.ClientConnectorDNSError():
            return "the host of CXone has no address: check GUESTLEDGER_CXONE_URL"
        case aiohttp.ClientSSLError():
            return "no TLS connection to CXone could be agreed on: check GUESTLEDGER_CXONE_URL and the certificates"
        case aiohttp.ClientConnectorError():
            return "the connection to CXone was refused: check GUESTLEDGER_CXONE_URL"
        case aiohttp.ClientResponseError():
            return "what came back from CXone is not HTTP"
        case _:
            return "the connection to CXone was lost before the answer came"


def said_by_server(body: bytes | None, profile: Profile, token: str) -> str:
    """What an error body says, made fit for a log: secrets and the fingerprint out, one line, 200 characters."""
    if not body:
        return ""
    try:
        text = _message(msgspec.json.decode(body), profile)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = ""
    text = _printable(text).replace(token, "[removed]")
    for pattern in _SECRETS:
        text = pattern.sub("[removed]", text)
    return text[:MESSAGE_LIMIT].strip()


# A fingerprint (or the better part of one: a trace id has no more than 32 hex digits), a bearer token, any JWT.
_SECRETS = (
    re.compile(r"[0-9a-fA-F]{33,}"),
    re.compile(r"(?i)\bbearer\s+\S+"),
    re.compile(r"\beyJ[\w-]+\.[\w.-]+"),
)


def _message(answer: Any, profile: Profile) -> str:
    if not isinstance(answer, dict):
        return ""
    texts = (answer.get(name) for name in profile.message_fields)
    return next((text for text in texts if isinstance(text, str) and text), "")


def _printable(text: str) -> str:
    """`text` in one line: control characters and what is not valid Unicode become blanks."""
    return "".join(character if character.isprintable() else " " for character in text)
