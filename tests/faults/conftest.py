"""What the fault suite shares: its helpers' assertions show their values, and each run ends with the identity law."""

from collections.abc import AsyncIterator

import pytest

from tests.e2e import raw_log

pytest.register_assert_rewrite("tests.faults.servers")


@pytest.fixture
def log_url(request: pytest.FixtureRequest) -> str | None:
    """The database of the test's ledger; `None`: it has none, or a server of its own."""
    return request.getfixturevalue("database_url") if "database_url" in request.fixturenames else None


@pytest.fixture(autouse=True)
async def what_ifs_are_checked(log_url: str | None) -> AsyncIterator[None]:
    """At the end of a run, a what-if with the recorded policy gives the recorded history of every session."""
    yield
    if log_url is not None:
        await raw_log.assert_every_what_if_is_the_log(log_url)
