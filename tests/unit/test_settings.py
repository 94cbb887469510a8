"""Settings of an environment."""

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import pytest

from guestledger.adapters.cxone.profile import Profile
from guestledger.adapters.settings import InvalidSettings, Settings
from guestledger.engine.domain.policy import DeliveryPolicy, Policy
from guestledger.engine.limits.feedback import ThrottleScope
from guestledger.engine.limits.policy import LimiterPolicy
from guestledger.engine.limits.retry import InDoubt, RetryPolicy


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("GUESTLEDGER_DATABSE_URL", "GUESTLEDGER_DATABASE_URL"),
        ("GUESTLEDGER_DATABASEURL", "GUESTLEDGER_DATABASE_URL"),
        ("GUESTLEDGER_DB_URL", "GUESTLEDGER_DATABASE_URL"),
        ("GUESTLEDGER_URL", "GUESTLEDGER_VAULT_URL"),
        ("GUESTLEDGER_CXONE_SECRET", "GUESTLEDGER_CXONE_CLIENT_SECRET"),
        ("GUESTLEDGER_DRAIN_SECOND", "GUESTLEDGER_DRAIN_SECONDS"),
    ],
)
def test_an_unknown_variable_is_refused_and_the_nearest_named(given: str, meant: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        Settings.from_env({given: "correct-horse", "GUESTLEDGER_SCHEMA": "ledger"})

    assert str(raised.value) == f"{given} is not a setting: did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    [
        "GUESTLEDGER_SERVICE_HOST",
        "GUESTLEDGER_SERVICE_PORT",
        "GUESTLEDGER_SERVICE_PORT_HTTP",
        "GUESTLEDGER_PORT",
        "GUESTLEDGER_PORT_8080_TCP",
        "GUESTLEDGER_PORT_8080_TCP_ADDR",
        "GUESTLEDGER_DB_SERVICE_HOST",
        "GUESTLEDGER_DB_PORT_5432_TCP_PROTO",
        "MY_GUESTLEDGER_DATABASE_URL",
    ],
)
def test_variables_that_kubernetes_sets_for_services_are_ignored(name: str) -> None:
    assert Settings.from_env({name: "tcp://10.0.0.1:80"}) == Settings()


def test_an_empty_variable_counts_as_unset_whatever_its_name() -> None:
    assert Settings.from_env({"GUESTLEDGER_DATABSE_URL": "", "GUESTLEDGER_SCHEMA": ""}) == Settings()


@pytest.mark.parametrize("name", ["information_schema", "pg_catalog", "pg_temp", "pg_mine"])
def test_a_schema_of_postgresql_itself_is_refused(name: str) -> None:
    for made in (lambda: Settings(schema=name), lambda: Settings.from_env({"GUESTLEDGER_SCHEMA": name})):
        with pytest.raises(InvalidSettings, match="GUESTLEDGER_SCHEMA is invalid"):
            made()


def test_the_text_of_a_choice_is_the_choice() -> None:
    given: dict[str, Any] = {"throttle_scope": "auto", "data_dir": "/srv/ledger"}
    settings = Settings(cxone_in_doubt="park", **given)  # type: ignore[arg-type]
    assert settings.cxone_in_doubt is InDoubt.PARK
    assert settings.throttle_scope is ThrottleScope.AUTO
    assert settings.data_dir == Path("/srv/ledger")
    assert Profile(in_doubt="park").in_doubt is InDoubt.PARK  # type: ignore[arg-type]
    assert RetryPolicy(in_doubt="park").in_doubt is InDoubt.PARK  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"cxone_in_doubt": "nonsense"},
        {"throttle_scope": "nonsense"},
        {"calls": "5"},
        {"calls": 0},
        {"drain_seconds": -1},
        {"drain_seconds": nan},
        {"webhook_allow_private": "0"},
        {"cxone_url": "api.example.com"},
        {"cxone_client_secret": b"correct-horse"},
        {"retention_days": 36_526},
    ],
)
def test_settings_made_in_code_are_checked_as_those_of_the_environment(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidSettings, match=f"GUESTLEDGER_{next(iter(given)).upper()} is invalid") as raised:
        Settings(**given)

    assert "correct-horse" not in str(raised.value)


@pytest.mark.parametrize(
    ("made", "given", "said"),
    [
        (Profile, {"in_doubt": "nonsense"}, "must be one of retry_with_key, retry_and_record, park"),
        (Profile, {"in_doubt": "retry_with_key"}, "honours_idempotency_key"),
        (RetryPolicy, {"in_doubt": "nonsense"}, "must be one of"),
        (RetryPolicy, {"max_failures": "8"}, "RetryPolicy.max_failures"),
        (LimiterPolicy, {"calls": "5"}, "LimiterPolicy.calls"),
        (DeliveryPolicy, {"waits_ms": 5}, "DeliveryPolicy.waits_ms"),
        (Policy, {"webhook_enabled": "0"}, "Policy.webhook_enabled"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(made: Callable[..., Any], given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**given)
