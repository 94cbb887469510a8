"""What monitoring systems ask: functions without a request, for any web framework."""

import msgspec

from guestledger.engine.ledger import Ledger

_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An HTTP answer."""

    status: int = 200
    body: bytes
    content_type: str


async def metrics(ledger: Ledger) -> Answer:
    """Answer `/metrics`. Needs the extra `server`."""
    from guestledger.adapters.telemetry.prometheus import metrics_text  # noqa: PLC0415 - an optional extra

    body, content_type = await metrics_text(ledger)
    return Answer(body=body, content_type=content_type)


async def healthz() -> Answer:
    """Answer `/healthz`: the process is alive. It asks nothing, so that an outage elsewhere restarts no process."""
    return Answer(body=b"ok\n", content_type=_TEXT)


async def readyz(ledger: Ledger, *, works: bool = False) -> Answer:
    """Answer `/readyz`: 200 if the ledger can be used now, else 503. The body is `Ledger.health`, with the reasons.

    With `works`, a scheduler must run in this process.
    """
    health = await ledger.health()
    reasons = [reason for reason in (health.database, health.key_vault) if reason is not None]
    if works and not health.scheduler_runs:
        reasons.append("no scheduler runs in this process")
    body = {"ready": not reasons, "reasons": reasons, "health": health}
    status = 503 if reasons else 200
    return Answer(status=status, body=msgspec.json.encode(body) + b"\n", content_type=_JSON)
