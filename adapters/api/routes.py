"""The table of routes. A new route is one line in its group's module; a new group is one module, and one line here."""

from guestledger.adapters.api.handlers import audit, decisions, finding, health, numbers, privacy, sessions
from guestledger.adapters.api.openapi import document_route
from guestledger.adapters.api.route import Route

_API: tuple[Route, ...] = (
    *sessions.ROUTES,
    *finding.ROUTES,
    *decisions.ROUTES,
    *privacy.ROUTES,
    *audit.ROUTES,
    *numbers.ROUTES,
    *health.ROUTES,
)

ROUTES: tuple[Route, ...] = (*_API, document_route(_API))
