"""What a host with an OpenTelemetry SDK sees of its sessions."""

import asyncio
import sys
from uuid import UUID

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, StatusCode

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from guestledger.adapters.telemetry.spans import session_context
from guestledger.engine.domain.session import Session, Status
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.telemetry import RequestPurpose
from tests.integration.conftest import NewLedger
from tests.tracing import Host, facts, id_of, linked, parent_of, trace_of, traced
from tests.unit.samples import request

STEPS = ("validate_channel", "create_session", "deliver_webhook")


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return traced(monkeypatch)


async def test_steps_are_children_of_the_call_that_opens_the_session(ledger: Ledger, host: Host):
    session = await ledger.open_session(request())

    opening = host.span("open_session")
    assert parent_of(opening) is None
    for name in ("validate_channel", "create_session"):
        assert parent_of(host.span(name)) == id_of(opening)
    assert facts(opening) == {"guestledger.session.id": str(session.id), "guestledger.outcome": "active"}
    expected = {"guestledger.step": "create_session", "guestledger.attempt": 1, "guestledger.outcome": "created"}
    assert facts(host.span("create_session")) == {"guestledger.session.id": str(session.id), **expected}


async def test_an_opening_belongs_to_the_trace_of_the_hosts_request(ledger: Ledger, host: Host):
    with host.tracer.start_as_current_span("POST /chat"):
        await ledger.open_session(request())

    assert parent_of(host.span("open_session")) == id_of(host.span("POST /chat"))


async def test_a_workers_step_is_a_trace_of_its_own_linked_to_the_session(
    new_ledger: NewLedger, ledger: Ledger, host: Host
):
    session = await ledger.accept(request())
    async with new_ledger() as other:
        with host.tracer.start_as_current_span("startup"):
            await other.scheduler.run_once()

    opening, step = host.span("open_session"), host.span("validate_channel")
    assert step.parent is None
    assert step.kind is SpanKind.CONSUMER
    assert trace_of(step) not in (trace_of(opening), trace_of(host.span("startup")))
    assert linked(step) == [session.id.int]
    assert (await ledger.session(session.id)).status is Status.ACTIVE


async def test_the_trace_with_the_sessions_id_leads_to_its_opening(ledger: Ledger, host: Host):
    with host.tracer.start_as_current_span("POST /chat"):
        session = await ledger.open_session(request())

    marker = host.span("session")
    assert trace_of(marker) == session.id.int
    assert linked(marker) == [trace_of(host.span("open_session"))]


async def test_a_repeated_request_is_shown_with_the_session_it_gets(ledger: Ledger, host: Host):
    first = await ledger.open_session(request(idempotency_key="order-1"))
    await ledger.open_session(request(idempotency_key="order-1"))

    assert [facts(span)["guestledger.session.id"] for span in host.spans("open_session")] == [str(first.id)] * 2
    assert len(host.spans("session")) == 1


def test_every_process_computes_the_same_context_for_a_session():
    context = session_context(UUID("01a22795-cc8e-71d5-9d6f-d3a95d2cde2f"))

    assert f"{context.trace_id:032x}" == "01a22795cc8e71d59d6fd3a95d2cde2f"
    assert f"{context.span_id:016x}" == "cbfa16edfe42934c"
    assert context.is_valid


async def test_a_request_follows_the_conventions_of_http_clients(ledger: Ledger, simulator: Simulator, host: Host):
    await ledger.open_session(request())

    [sent] = _requests(host, RequestPurpose.SESSION)
    assert sent.name == "POST"
    assert sent.kind is SpanKind.CLIENT
    assert parent_of(sent) == id_of(host.span("create_session"))
    port = int(simulator.url.rpartition(":")[2])
    assert facts(sent) == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": port,
        "url.full": f"{simulator.url}/api/v1/chat/sessions",
        "http.response.status_code": 201,
        "guestledger.request": "session",
    }


async def test_a_second_attempt_counts_as_a_resend(ledger: Ledger, simulator: Simulator, host: Host):
    simulator.config = SimulatorConfig(server_error_share=1.0)
    session = await ledger.open_session(request())
    await _until_settled(ledger, session)

    first, second = _requests(host, RequestPurpose.SESSION)
    assert first.status.status_code is StatusCode.ERROR
    assert facts(first)["error.type"] == "500"
    assert facts(second)["http.request.resend_count"] == 1
    assert facts(second)["http.response.status_code"] == 201


async def test_a_request_without_an_answer_names_the_error(ledger: Ledger, simulator: Simulator, host: Host):
    simulator.config = SimulatorConfig(drop_share=1.0)
    await ledger.open_session(request())

    first = _requests(host, RequestPurpose.SESSION)[0]
    assert facts(first)["error.type"] == "ServerDisconnectedError"
    assert "http.response.status_code" not in facts(first)
    assert first.events == ()


async def test_a_webhook_is_shown_without_its_path(new_ledger: NewLedger, simulator: Simulator, host: Host):
    url = f"{simulator.webhook_url}/T0PS3CRET?key=T0PS3CRET"
    async with new_ledger(webhook_url=url) as ledger:
        await ledger.open_session(request())
        await ledger.scheduler.run_once()

    sent = _requests(host, RequestPurpose.WEBHOOK)[0]
    assert str(facts(sent)["url.full"]).endswith("/REDACTED")
    assert "T0PS3CRET" not in "".join(span.to_json() for span in host.spans())


async def test_a_commit_follows_the_conventions_of_databases(ledger: Ledger, host: Host):
    sessions = await asyncio.gather(*(ledger.accept(request()) for _ in range(20)))

    commits = [span for span in host.spans() if span.name.endswith(" events")]
    assert sum(int(str(facts(span).get("db.operation.batch.size", 1))) for span in commits) == 20
    batch = max(commits, key=lambda span: len(span.links))
    assert batch.name == facts(batch)["db.operation.name"] + " events" == "BATCH INSERT events"  # type: ignore[operator]
    assert facts(batch)["db.system.name"] == "postgresql"
    assert batch.parent is None
    assert {trace for span in commits for trace in linked(span)} == {session.id.int for session in sessions}


async def test_the_hosts_sampler_decides_about_every_trace(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    none = traced(monkeypatch, ParentBased(ALWAYS_OFF))
    await ledger.open_session(request())
    await ledger.scheduler.run_once()
    assert none.spans() == []


async def test_of_a_sampled_session_the_marker_is_exported_too(new_ledger: NewLedger, monkeypatch: pytest.MonkeyPatch):
    half = traced(monkeypatch, ParentBased(TraceIdRatioBased(0.5)))
    async with new_ledger() as ledger:
        for _ in range(30):
            await ledger.accept(request())

    opened = {facts(span)["guestledger.session.id"] for span in half.spans("open_session")}
    assert 0 < len(opened) < 30
    assert {facts(span)["guestledger.session.id"] for span in half.spans("session")} == opened


async def test_without_an_sdk_the_host_has_no_span(ledger: Ledger):
    session = await ledger.open_session(request())

    assert session.status is Status.ACTIVE
    assert ledger.telemetry.tracing is None  # type: ignore[attr-defined]


async def test_without_the_api_sessions_are_opened_all_the_same(new_ledger: NewLedger, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "guestledger.adapters.telemetry.spans")
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    async with new_ledger() as ledger:
        session = await ledger.open_session(request())

    assert session.status is Status.ACTIVE
    assert ledger.telemetry.measured.attempts == {"created": 1}  # type: ignore[attr-defined]


def _requests(host: Host, purpose: RequestPurpose) -> list:  # type: ignore[type-arg]
    return [span for span in host.spans() if facts(span).get("guestledger.request") == purpose]


async def _until_settled(ledger: Ledger, session: Session) -> None:
    async with asyncio.timeout(60):
        while not (await ledger.session(session.id)).status.is_settled:
            await ledger.scheduler.run_once()
