"""What a load balancer asks: whether the process lives, and whether it can work; and what Prometheus reads.

The first two are public, and give no details.
"""

from importlib.util import find_spec
from typing import Literal

import msgspec

from guestledger.adapters.api.exchange import TEXT, Response
from guestledger.adapters.api.problems import Refused
from guestledger.adapters.api.route import PUBLIC, Context, Params, Route
from guestledger.adapters.telemetry import endpoints


class HealthForm(msgspec.Struct, frozen=True, kw_only=True):
    """All is well."""

    status: Literal["ok"] = "ok"


async def alive(_asked: Params, _context: Context) -> HealthForm:
    """Return that the process answers."""
    return HealthForm()


async def ready(_asked: Params, context: Context) -> HealthForm:
    """Return whether the databases can be used. Answers within seconds."""
    health = await context.ledger.health()
    if health.database is not None or health.key_vault is not None:
        what = "the database" if health.database is not None else "the key vault"
        raise Refused("not-ready", f"{what[0].upper()}{what[1:]} cannot be used.", {"retry-after": "5"})
    return HealthForm()


async def metrics(_asked: Params, context: Context) -> Response:
    """Return the metrics for Prometheus. Needs the extra `server`."""
    if find_spec("prometheus_client") is None:
        raise Refused("not-configured", "The metrics need prometheus_client: install guestledger[server].")
    found = await endpoints.metrics(context.ledger)
    return Response(headers={"content-type": found.content_type}, body=found.body)


ROUTES = (
    Route(method="GET", path="/healthz", handler=alive, answer=HealthForm, roles=PUBLIC, limited=False),
    Route(method="GET", path="/readyz", handler=ready, answer=HealthForm, roles=PUBLIC),
    Route(method="GET", path="/metrics", handler=metrics, produces=(TEXT,)),
)
