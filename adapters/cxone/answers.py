"""What CXone's answers mean, as neutral outcomes. Pure."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.http.answers import (
    MAX_WORD,
    NO_CONTROLS,
    UNREADABLE,
    Fields,
    Word,
    read_field,
    read_fields,
    server_message,
    shown_field,
)
from guestledger.adapters.http.failures import (
    cause_of_error,
    cause_of_status,
    kind_of_error,
    kind_of_status,
    observation_of,
)
from guestledger.adapters.http.transport import Answer
from guestledger.adapters.http.unix_time import unix_time
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Channel, Created, Failed, FailureKind, Throttled
from guestledger.engine.domain.personal import Secret
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.quota import ExhaustedQuota
from guestledger.engine.ports.telemetry import RequestPurpose

PROTOCOL = "web_chat"
"""What a channel must support."""

AwareTime = Annotated[datetime, Meta(tz=True)]
GuestToken = Annotated[str, Meta(max_length=16_384, pattern=NO_CONTROLS, extra={"personal": True})]


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is for. `scope` is the permission that it needs."""

    request: RequestPurpose
    scope: str
    lost: FailureKind
    """The kind of a lost answer."""
    fault: FailureKind
    """The kind of a 5xx."""
    throttles: ThrottleScope
    """What a 429 speaks of."""


def creation_purpose(profile: Profile) -> Purpose:
    """Session creation."""
    fault = FailureKind.IN_DOUBT if profile.server_error_in_doubt else FailureKind.UNAVAILABLE
    return Purpose(
        request=RequestPurpose.SESSION,
        scope=profile.session_scope,
        lost=FailureKind.IN_DOUBT,
        fault=fault,
        throttles=profile.throttle_scope,
    )


def lookup_purpose(profile: Profile) -> Purpose:
    """Channel look-up."""
    unavailable = FailureKind.UNAVAILABLE
    return Purpose(
        request=RequestPurpose.CHANNEL,
        scope=profile.channel_scope,
        lost=unavailable,
        fault=unavailable,
        throttles=profile.throttle_scope,
    )


class Reader:
    """Reads successful answers under the profile's field names."""

    def __init__(self, profile: Profile) -> None:
        self._channel = profile.channel_fields
        self._session = profile.session_fields

    def channel(self, answer: Answer, purpose: Purpose, channel_id: str, now: datetime) -> Channel | Failed:
        """The channel, and what makes it unusable."""
        try:
            fields = read_fields(answer.body)
        except UNREADABLE as error:
            return _unreadable(answer, purpose.lost, str(error))
        status = read_field(fields, self._channel.status, Word)
        listed = read_field(fields, self._channel.protocols, list[Any])
        if status is None or listed is None:
            # The answer is whole, so the next one would be the same.
            missing = self._channel.protocols if status else self._channel.status
            return _unreadable(answer, FailureKind.FINAL, f"{missing}: {shown_field(fields, missing)}")
        protocols = tuple(one for one in listed if isinstance(one, str) and re.fullmatch(NO_CONTROLS, one))
        problem, detail = None, ""
        if status != "active":
            problem, detail = Cause.CHANNEL_INACTIVE, status
        elif PROTOCOL not in protocols:
            problem, detail = Cause.CHANNEL_UNSUPPORTED, PROTOCOL
        return Channel(
            id=channel_id,
            problem=problem,
            detail=detail,
            status=status,
            protocols=protocols,
            looked_up_at=now,
            exhausted=answer.exhausted,
        )

    def created(self, answer: Answer, purpose: Purpose, latency_ms: int) -> Created | Failed:
        """The new session. Without a readable id or token nobody can use it."""
        names = self._session
        try:
            fields = read_fields(answer.body)
        except UNREADABLE as error:
            return _unreadable(answer, purpose.lost, str(error))
        session_id, token = _read_id(fields, names.session_id), read_field(fields, names.token, GuestToken)
        if session_id is None:
            detail = f"{names.session_id}: {shown_field(fields, names.session_id)}"
            return _unreadable(answer, purpose.lost, detail)
        if token is None:
            # Its text is not shown: most of a token may be in it.
            detail = f"session {session_id} has no readable {names.token}"
            return _unreadable(answer, purpose.lost, detail, session_id)
        return self._made(fields, answer, session_id, Secret(token), latency_ms)

    def _made(self, fields: Fields, answer: Answer, session_id: str, token: str, latency_ms: int) -> Created:
        names = self._session
        expires_at, status = _read_time(fields, names.expires_at), read_field(fields, names.status, Word)
        missing = {"expires_at": expires_at is None, "status": status is None}
        return Created(
            session_id=session_id,
            guest_token=str(token),  # msgspec encodes no subclass
            expires_at=expires_at,
            status=status or "",
            unread={name: shown_field(fields, getattr(names, name)) for name in missing if missing[name]},
            latency_ms=latency_ms,
            exhausted=answer.exhausted,
        )


def _read_id(fields: Fields, name: str) -> str | None:
    number = read_field(fields, name, int)
    if number is None:
        return read_field(fields, name, Word)
    return str(number) if len(str(number)) <= MAX_WORD else None


def _read_time(fields: Fields, name: str) -> datetime | None:
    """A time with an offset, or a Unix time as a number or text."""
    number = read_field(fields, name, float)
    text = None if number is not None else read_field(fields, name, str)
    if text is not None and re.fullmatch(r"[0-9]{1,15}", text.strip()):
        number = float(text)
    if number is not None:
        return unix_time(number)
    moment = read_field(fields, name, AwareTime)
    try:
        return None if moment is None else moment.astimezone(UTC)
    except OverflowError:
        return None


def failure(answer: Answer, purpose: Purpose, message: str) -> Throttled | Failed:
    """What a status other than 2xx means (contract, "Answers that are not success")."""
    status, asked = answer.status, answer.asked
    if status == 429:
        return Throttled(status=status, retry_after=asked, exhausted=answer.exhausted, scope=purpose.throttles)
    kind = kind_of_status(status, lost=purpose.lost, fault=purpose.fault)
    detail = message
    if status == 403:
        detail = f"{purpose.scope}: {message}" if message else purpose.scope
    return Failed(
        kind=kind,
        cause=cause_of_status(status),
        status=status,
        detail=detail,
        # Without the header, the retry policy decides alone.
        retry_after=None if kind is FailureKind.FINAL or asked.given is None else asked,
        exhausted=answer.exhausted,
        observation=observation_of(kind, status),
    )


def unknown_channel(answer: Answer, channel_id: str, message: str, now: datetime) -> Channel:
    """The meaning of a 404 on a look-up."""
    return Channel(
        id=channel_id,
        problem=Cause.CHANNEL_UNKNOWN,
        detail=message,
        looked_up_at=now,
        exhausted=answer.exhausted,
    )


def impossible_channel() -> Failed:
    """An id that no channel can have. Nothing is sent."""
    kind = FailureKind.FINAL
    return Failed(kind=kind, cause=Cause.CHANNEL_UNKNOWN, observation=observation_of(kind, None))


def token_refused(exhausted: ExhaustedQuota) -> Failed:
    """A 401 with an exhausted quota."""
    kind = FailureKind.UNAVAILABLE
    return Failed(
        kind=kind,
        cause=Cause.TOKEN_REFUSED,
        status=401,
        exhausted=exhausted,
        observation=observation_of(kind, 401),
    )


def no_answer(error: Exception, purpose: Purpose, time_limit: str) -> Failed:
    """The meaning of one of `WIRE_ERRORS`."""
    kind = kind_of_error(error, purpose.lost)
    return Failed(kind=kind, cause=cause_of_error(error), detail=time_limit, observation=observation_of(kind, None))


def message_of(answer: Answer, profile: Profile, token: str) -> str:
    """The server's message, safe for a log."""
    return server_message(answer.body, profile.message_fields, token)


def _unreadable(answer: Answer, kind: FailureKind, detail: str, session_id: str | None = None) -> Failed:
    """An unreadable success: the request may have had its effect."""
    return Failed(
        kind=kind,
        cause=answer.cut_off or Cause.UNREADABLE_ANSWER,
        status=answer.status,
        detail="" if answer.cut_off else detail,
        session_id=session_id,
        exhausted=answer.exhausted,
        observation=observation_of(kind, answer.status),
    )
