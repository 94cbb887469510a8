"""Settings of an environment."""

import pytest

from guestledger.adapters.settings import InvalidSettings, Settings


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
