"""The application with all its doors: the HTTP API, and the console for people."""

from importlib.util import find_spec

from guestledger.adapters.api.access import Authenticate, BearerKeys
from guestledger.adapters.api.admission import ApiLimits
from guestledger.adapters.api.app import App
from guestledger.adapters.api.asgi import AsgiApp
from guestledger.adapters.api.route import API_DOOR, Door, Route
from guestledger.adapters.api.routes import ROUTES
from guestledger.adapters.settings import Settings
from guestledger.engine.ledger import Ledger


def application(
    ledger: Ledger | None = None, *, authenticate: Authenticate | None = None, limits: ApiLimits = ApiLimits()
) -> App:
    """Return the application. `authenticate` replaces access keys, also in the console: then nobody signs in there."""
    check = authenticate or BearerKeys()
    routes = (*ROUTES, *_console(check))
    return App(ledger, routes=routes, authenticate=check, limits=limits, pages=_pages())


def _pages() -> Door:
    """How a browser is refused where there is no page."""
    if find_spec("jinja2") is None:
        return API_DOOR
    from guestledger.adapters.console.pages import refusal_page  # noqa: PLC0415

    return Door(refused=refusal_page)


def _console(authenticate: Authenticate) -> tuple[Route, ...]:
    """The console's pages; none without the extra `server`, which brings their templates."""
    if find_spec("jinja2") is None:
        return ()
    from guestledger.adapters.console.routes import console_routes  # noqa: PLC0415

    return console_routes(authenticate)


def asgi(
    settings: Settings | None = None,
    *,
    scheduler: bool = True,
    authenticate: Authenticate | None = None,
    limits: ApiLimits = ApiLimits(),
) -> AsgiApp:
    """Return the HTTP API and the console as an ASGI application.

    Served alone, it opens the ledger of `settings` (default: of the environment) for as long as the server runs; with
    `scheduler`, due steps run beside it. A mounted application gets no lifespan: there, the host calls `use(ledger)` with
    the ledger that it opened. `authenticate` replaces access keys by the host's own check.
    """
    return AsgiApp(application(authenticate=authenticate, limits=limits), settings, scheduler=scheduler)
