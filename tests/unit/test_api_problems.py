"""Every public error has a problem of its own, and the page lists every problem."""

import re
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest

import guestledger
from guestledger.adapters.api.problems import ERRORS, KINDS, Problem, code_of, refusal
from guestledger.adapters.postgres import errors as of_database
from guestledger.adapters.postgres.unusable import DatabaseProblem, DatabaseUnusable
from guestledger.engine.domain import errors as of_engine
from guestledger.engine.domain.causes import Cause
from guestledger.engine.domain.errors import GuestledgerError, InvalidRequest, ServiceUnreachable

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"


def classes() -> list[type[GuestledgerError]]:
    public = [getattr(guestledger, name) for name in guestledger.__all__]
    found = [*public, *vars(of_engine).values(), *vars(of_database).values()]
    return sorted(
        {kind for kind in found if isinstance(kind, type) and issubclass(kind, GuestledgerError)} - {GuestledgerError},
        key=lambda kind: kind.__name__,
    )


@pytest.mark.parametrize("error", classes(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_problem(error: type[GuestledgerError]) -> None:
    assert code_of(error) != "internal"
    assert code_of(error) in KINDS


def test_the_table_names_no_class_that_does_not_exist() -> None:
    assert ERRORS.keys() <= {kind.__name__ for kind in classes()}


def test_the_page_lists_every_problem_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \|", PAGE.read_text(), re.MULTILINE))
    assert rows == {code: str(kind.status) for code, kind in KINDS.items()}


def test_a_problem_says_what_was_wrong() -> None:
    refused = refusal(InvalidRequest("consent.marketing", "expected `bool`"), uuid4())
    assert msgspec.to_builtins(refused.problem) == {
        "type": "/problems/invalid-request",
        "title": KINDS["invalid-request"].title,
        "status": 422,
        "detail": "consent.marketing: expected `bool`",
        "code": "invalid-request",
        "field": "consent.marketing",
    }


def test_a_failure_of_the_server_has_an_id_and_a_time_to_wait() -> None:
    instance = uuid4()
    refused = refusal(ServiceUnreachable("database", Cause.CONNECTION_REFUSED), instance)
    assert refused.problem.instance == f"urn:uuid:{instance}"
    assert (refused.problem.service, refused.problem.cause) == ("database", "connection_refused")
    assert refused.headers == {"retry-after": "1"}


@pytest.mark.parametrize(
    "error",
    [
        guestledger.DatabaseFault("PostgreSQL rejected a statement: secret"),
        DatabaseUnusable(DatabaseProblem.LOGIN_REFUSED, words='no entry for host "10.0.0.5", user "secret"'),
        ServiceUnreachable("provider", Cause.CONNECTION_REFUSED, "secret.example"),
    ],
)
def test_the_problem_of_a_faulty_server_hides_its_details(error: GuestledgerError) -> None:
    refused = refusal(error, uuid4())
    assert b"secret" not in msgspec.json.encode(refused.problem)
    assert isinstance(refused.problem, Problem)
