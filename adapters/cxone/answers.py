"""What CXone's answers mean, as neutral outcomes. Pure."""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.http.answers import NO_CONTROLS, UNREADABLE, Word, answer_decoder, server_message
from guestledger.adapters.http.failures import (
    cause_of_error,
    cause_of_status,
    kind_of_error,
    kind_of_status,
    observation_of,
)
from guestledger.adapters.http.transport import Answer
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import Channel, Created, Failed, FailureKind, Throttled
from guestledger.engine.domain.personal import Guarded
from guestledger.engine.limits.quota import ExhaustedQuota

PROTOCOL = "web_chat"
"""What a channel must support."""

GuestToken = Annotated[str, Meta(max_length=16_384, pattern=NO_CONTROLS, extra={"personal": True})]


class ChannelAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A channel."""

    status: Word
    protocols: tuple[Word, ...]


class SessionAnswer(Guarded, frozen=True, kw_only=True):
    """A new session. A time without an offset is invalid."""

    session_id: Word
    token: GuestToken
    expires_at: Annotated[datetime, Meta(tz=True)]
    status: Word


class Purpose(msgspec.Struct, frozen=True, kw_only=True):
    """What a request is for. `scope` is the permission that it needs."""

    scope: str
    lost: FailureKind
    """The kind of a lost answer."""
    fault: FailureKind
    """The kind of a 5xx."""


def creation_purpose(profile: Profile) -> Purpose:
    """Session creation."""
    fault = FailureKind.IN_DOUBT if profile.server_error_in_doubt else FailureKind.UNAVAILABLE
    return Purpose(scope=profile.session_scope, lost=FailureKind.IN_DOUBT, fault=fault)


def lookup_purpose(profile: Profile) -> Purpose:
    """Channel look-up."""
    return Purpose(scope=profile.channel_scope, lost=FailureKind.UNAVAILABLE, fault=FailureKind.UNAVAILABLE)


class Decoders:
    """Read successful answers under the profile's field names."""

    def __init__(self, profile: Profile) -> None:
        self._channel = answer_decoder(ChannelAnswer, profile.channel_fields)
        self._session = answer_decoder(SessionAnswer, profile.session_fields)

    def channel(self, answer: Answer, purpose: Purpose, channel_id: str, now: datetime) -> Channel | Failed:
        """The channel, and what makes it unusable."""
        try:
            found = self._channel.decode(answer.body or b"")
        except UNREADABLE as error:
            return _unreadable(answer, purpose, error)
        problem, detail = None, ""
        if found.status != "active":
            problem, detail = Cause.CHANNEL_INACTIVE, found.status
        elif PROTOCOL not in found.protocols:
            problem, detail = Cause.CHANNEL_UNSUPPORTED, PROTOCOL
        return Channel(
            id=channel_id,
            problem=problem,
            detail=detail,
            status=found.status,
            protocols=found.protocols,
            looked_up_at=now,
            exhausted=answer.exhausted,
        )

    def created(self, answer: Answer, purpose: Purpose, latency_ms: int) -> Created | Failed:
        """The new session."""
        try:
            made = self._session.decode(answer.body or b"")
            expires_at = made.expires_at.astimezone(UTC)
        except UNREADABLE as error:
            return _unreadable(answer, purpose, error)
        return Created(
            session_id=made.session_id,
            guest_token=made.token,
            expires_at=expires_at,
            status=made.status,
            latency_ms=latency_ms,
            exhausted=answer.exhausted,
        )


def failure(answer: Answer, purpose: Purpose, message: str) -> Throttled | Failed:
    """What a status other than 2xx means (contract, "Answers that are not success")."""
    status, asked = answer.status, answer.asked
    if status == 429:
        return Throttled(status=status, retry_after=asked, exhausted=answer.exhausted)
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


def _unreadable(answer: Answer, purpose: Purpose, error: Exception) -> Failed:
    """A success that cannot be read: the request may have had its effect."""
    return Failed(
        kind=purpose.lost,
        cause=Cause.UNREADABLE_ANSWER,
        status=answer.status,
        detail=str(error),
        exhausted=answer.exhausted,
        observation=observation_of(purpose.lost, answer.status),
    )
