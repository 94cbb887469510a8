"""Requests that change something come from the console's own pages."""

from guestledger.adapters.api.access import Authenticate, Caller
from guestledger.adapters.api.exchange import Request
from guestledger.adapters.api.problems import Refused
from guestledger.engine.ledger import Ledger


def check_own_site(request: Request) -> None:
    """Raise `Refused` for a POST of another site, or of a client that does not say from where it comes."""
    if request.method != "POST":
        return
    site = request.headers.get("sec-fetch-site")
    own = _is_own_origin(request) if site is None else site == "same-origin"
    if not own:
        raise Refused(
            "origin-not-allowed", "This form was not sent by the console itself. Open its page, and send it there."
        )


def of_own_site(authenticate: Authenticate) -> Authenticate:
    """Return a check that names the caller as `authenticate` does, once `check_own_site` has passed."""

    async def checked(request: Request, ledger: Ledger) -> Caller:
        check_own_site(request)
        return await authenticate(request, ledger)

    return checked


def _is_own_origin(request: Request) -> bool:
    scheme, _, host = request.headers.get("origin", "").partition("://")
    return scheme in ("http", "https") and host != "" and host == request.headers.get("host")
