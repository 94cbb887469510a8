"""The OpenAPI document is valid, and says what the table of routes says."""

from openapi_spec_validator import validate

from guestledger.adapters.api.openapi import openapi
from guestledger.adapters.api.problems import KINDS
from guestledger.adapters.api.routes import ROUTES


def test_the_document_is_valid() -> None:
    validate(openapi(ROUTES))


def test_every_route_has_its_own_name_and_a_summary() -> None:
    operations = [each for path in openapi(ROUTES)["paths"].values() for each in path.values()]
    assert len(operations) == len(ROUTES) == len({each["operationId"] for each in operations})
    assert all(each["summary"].endswith(".") for each in operations)


def test_routes_name_problems_that_exist() -> None:
    assert {code for route in ROUTES for code in route.problems} <= KINDS.keys()


def test_no_personal_data_can_be_given_in_a_url() -> None:
    given = {
        parameter["name"]
        for path in openapi(ROUTES)["paths"].values()
        for operation in path.values()
        for parameter in operation["parameters"]
        if parameter["in"] != "header"
    }
    assert not given & {"subjectId", "ipAddress", "fingerprint", "userAgent", "idempotencyKey", "reason"}
