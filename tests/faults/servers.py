"""Two kinds of server: one makes one session for a key, the other one makes one for each request."""

from typing import Any, NamedTuple

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import raw_log
from tests.e2e.command import environment


class Server(NamedTuple):
    """A kind of server, and the in-doubt policy that fits it."""

    name: str
    honours_keys: bool
    in_doubt: str

    def config(self, **more: Any) -> SimulatorConfig:
        """The configuration of a simulator of this kind."""
        return SimulatorConfig(honour_idempotency_key=self.honours_keys, **more)


SERVERS = (
    Server("a server that honours keys", honours_keys=True, in_doubt="retry_with_key"),
    Server("a server that does not", honours_keys=False, in_doubt="retry_and_record"),
)


def environment_at(
    server: Server, simulator: Simulator, database_url: str | None = None, **more: str | None
) -> dict[str, str]:
    """The environment of a ledger that uses this simulator. A setting in `more` that is `None` keeps its default."""
    given = {name: value for name, value in more.items() if value is not None}
    return environment(database_url, simulator, cxone_in_doubt=server.in_doubt, **given)


async def assert_none_silent(database_url: str, simulator: Simulator, server: Server) -> None:
    """The ledger accounts for every remote session. A server that honours keys has made exactly one for each key."""
    made = raw_log.sessions_by_key(simulator)
    assert await raw_log.silent_sessions(database_url, made) == {}
    if server.honours_keys:
        assert {key: ids for key, ids in made.items() if len(ids) != 1} == {}
        assert raw_log.remote_sessions(simulator) == await raw_log.known_sessions(database_url)
