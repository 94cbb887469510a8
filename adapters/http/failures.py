"""Failed requests and HTTP statuses as neutral codes. Pure."""

import aiohttp

from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.outcomes import FailureKind
from guestledger.engine.limits.feedback import Observation

WIRE_ERRORS = (aiohttp.ClientError, OSError)
"""What a request may raise in place of an answer. `TimeoutError` is an `OSError`."""

UNSENT_ERRORS = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL)
"""Those of `WIRE_ERRORS` that precede the first byte."""


def cause_of_error(error: Exception) -> Cause:
    """The cause of one of `WIRE_ERRORS`, whose text may quote URLs, headers and bodies."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Cause.CONNECTION_TIMEOUT
        case TimeoutError():
            return Cause.ANSWER_TIMEOUT
        case aiohttp.InvalidURL():
            return Cause.INVALID_HOST
        case aiohttp.ClientConnectorDNSError():
            return Cause.NO_ADDRESS
        case aiohttp.ClientSSLError():
            return Cause.TLS_FAILED
        case aiohttp.ClientConnectorError():
            return Cause.CONNECTION_REFUSED
        case aiohttp.ClientResponseError():
            return Cause.PROTOCOL_ERROR
        case _:
            return Cause.CONNECTION_LOST


def kind_of_error(error: Exception, lost: FailureKind) -> FailureKind:
    """`lost`: the kind if the request was sent."""
    return FailureKind.UNSENT if isinstance(error, UNSENT_ERRORS) else lost


def cause_of_status(status: int) -> Cause:
    """The cause of a status other than 2xx."""
    causes = {
        401: Cause.UNAUTHORIZED,
        403: Cause.FORBIDDEN,
        408: Cause.REQUEST_TIMEOUT,
        425: Cause.TOO_EARLY,
        429: Cause.THROTTLED,
    }
    if status in causes:
        return causes[status]
    if 300 <= status < 400:
        return Cause.REDIRECTED
    return Cause.REJECTED if 400 <= status < 500 else Cause.SERVER_ERROR


def kind_of_status(status: int, *, lost: FailureKind, fault: FailureKind) -> FailureKind:
    """For statuses other than 2xx and 429. `lost`: the kind of a 408, `fault`: of a 5xx."""
    if status == 408:
        return lost
    if status == 425:
        return FailureKind.UNAVAILABLE
    return FailureKind.FINAL if 300 <= status < 500 else fault


def is_temporary(status: int) -> bool:
    """Whether a later request may succeed: after 408, 425, 429 and 5xx."""
    return status in (408, 425, 429) or status >= 500


def observation_of(kind: FailureKind, status: int | None) -> Observation:
    """An API that rejects a request, or its token, works."""
    if status == 401:
        return Observation.SUCCESS
    if kind is not FailureKind.FINAL:
        return Observation.FAILED
    return Observation.NOT_SENT if status is None else Observation.SUCCESS
