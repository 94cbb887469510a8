"""The whole API, with generated requests, over both adapters: no 5xx, and every answer is as the document says."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import hypothesis
import pytest
import schemathesis
from schemathesis import checks as all_checks
from schemathesis.specs.openapi import checks as openapi_checks

from guestledger.adapters.settings import Settings
from guestledger.adapters.simulator import Simulator
from guestledger.adapters.wiring import connect
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import ADAPTERS, GUEST, Api, api_of
from tests.keys import KEY

# Not `positive_data_acceptance`: what a schema cannot say, such as that a text is an IP address, is refused with 422.
CHECKS = (
    all_checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_headers_conformance,
    openapi_checks.response_schema_conformance,
    openapi_checks.unsupported_method,
    openapi_checks.ignored_auth,
)


@pytest.fixture
async def ledger(database_url: str) -> AsyncIterator[Ledger]:
    async with Simulator() as simulator:
        settings = Settings(
            database_url=database_url,
            encryption_key=KEY,
            cxone_url=simulator.url,
            cxone_client_id=simulator.client_id,
            cxone_client_secret=simulator.client_secret,
        )
        async with connect(settings, scheduler=False) as opened:
            yield opened


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_generated_requests_meet_no_failure(ledger: Ledger, adapter: str) -> None:
    await _all_operations(ledger, adapter, (*CHECKS, openapi_checks.negative_data_rejection), examples=6)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_many_generated_requests_meet_no_failure(ledger: Ledger, adapter: str) -> None:
    # Among so many are some whose only fault is not sent, such as an unknown parameter without a value.
    await _all_operations(ledger, adapter, CHECKS, examples=100)


async def _all_operations(ledger: Ledger, adapter: str, checks: Sequence[Any], *, examples: int) -> None:
    async with api_of(ledger, adapter) as api:
        session = (await api.post("/v1/sessions", GUEST)).json["id"]
        document = (await api.get("/v1/openapi.json")).json
        _use_session(document, session)
        # Each operation is called with the key of a role that may.
        await asyncio.to_thread(_run, document, api, checks, examples)


def _run(document: Any, api: Api, checks: Sequence[Any], examples: int) -> None:
    schema = schemathesis.openapi.from_dict(document)
    for result in schema.get_all_operations():
        operation = result.ok()
        roles = operation.definition.raw["description"]
        role = next((role for role in Role if role in roles), Role.AUDITOR)
        for mode in schemathesis.GenerationMode:
            _try(operation, mode, api.url, api.keys[role], checks, examples)


def _try(
    operation: Any, mode: schemathesis.GenerationMode, url: str, key: str, checks: Sequence[Any], examples: int
) -> None:
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    def call(case: schemathesis.Case) -> None:
        case.call_and_validate(
            base_url=url, headers={"Authorization": f"Bearer {key}"}, checks=list(checks), timeout=30
        )

    try:
        call()
    except hypothesis.errors.Unsatisfiable:
        assert mode is schemathesis.GenerationMode.NEGATIVE  # nothing in it can be wrong


def _use_session(document: Any, session: str) -> None:
    """Half of the generated ids are those of a session."""
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and path.startswith("/v1/sessions/"):
                    parameter["schema"] = {"anyOf": [{"const": session}, parameter["schema"]]}
