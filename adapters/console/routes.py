"""The table of the console's pages."""

from typing import Any

from guestledger.adapters.api.access import Authenticate, BearerKeys
from guestledger.adapters.api.handlers.sessions import SessionPath
from guestledger.adapters.api.route import OPERATOR, PRIVACY, PUBLIC, READERS, Door, Params, Route
from guestledger.adapters.console import audit, decisions, files, find, overview, session, what_if
from guestledger.adapters.console.cookie import SignedIn
from guestledger.adapters.console.live import Live
from guestledger.adapters.console.own_site import of_own_site
from guestledger.adapters.console.pages import PRODUCED, refusal_page
from guestledger.adapters.console.signing_in import SignIn, SigningIn, SignInPage


def console_routes(authenticate: Authenticate) -> tuple[Route, ...]:
    """Return the pages. With access keys people sign in; any other `authenticate` names the caller of each request itself."""
    signed_in = SignedIn(authenticate) if isinstance(authenticate, BearerKeys) else None
    door = Door(authenticate=signed_in or of_own_site(authenticate), form=True, refused=refusal_page)

    def route(
        method: str, path: str, handler: Any, request: Any = Params, roles: Any = READERS, *, endless: bool = False
    ) -> Route:
        return Route(
            method=method,
            path=path,
            handler=handler,
            request=request,
            roles=roles,
            door=door,
            produces=PRODUCED,
            endless=endless,
        )

    pages = [
        route("GET", "/", overview.show_overview, overview.ShowOverview),
        route("GET", "/live", Live().stream, endless=True),
        route("GET", "/find", find.show_find),
        route("POST", "/find", find.find, find.Find),
        route("GET", "/sessions/{id}", session.show_session, session.ShowSession),
        route("GET", "/sessions/{id}/bundle", session.download_bundle, SessionPath),
        route("GET", "/sessions/{id}/what-if", what_if.ask_what_if, what_if.PolicyForm),
        route("POST", "/sessions/{id}/resolve", decisions.resolve, decisions.Resolve, OPERATOR),
        route("POST", "/sessions/{id}/redeliver", decisions.redeliver, decisions.Redeliver, OPERATOR),
        route("POST", "/sessions/{id}/reveal", decisions.reveal, decisions.RevealSession, PRIVACY),
        route("GET", "/audit", audit.show_audit, audit.ShowAudit),
        route("POST", "/audit", audit.search_audit, audit.SearchAudit),
        route("GET", "/console.css", files.get_styles, roles=PUBLIC),
        route("GET", "/console.js", files.get_script, roles=PUBLIC),
    ]
    if signed_in is not None:
        signing_in = SigningIn(signed_in)
        pages += [
            route("GET", "/sign-in", signing_in.show, SignInPage, PUBLIC),
            route("POST", "/sign-in", signing_in.enter, SignIn, PUBLIC),
            route("POST", "/sign-out", signing_in.leave, roles=PUBLIC),
        ]
    return tuple(pages)
