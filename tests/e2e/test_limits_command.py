import getpass

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
from tests.e2e.command import environment, run


async def test_closed_limiter_is_listed_and_can_be_reset(database_url: str):
    async with Simulator(SimulatorConfig(throttle_share=1.0, retry_after="huge")) as simulator:
        env = environment(database_url, simulator)
        waiting = await run("open", "-", "--no-wait", env=env, stdin=guests.as_lines([guests.guest(1)]))
        assert [answer["status"] for answer in waiting.out] == ["throttled"]
        assert "`Retry-After: 99999999999999999999`: longer than LimiterPolicy.max_pause_ms" in waiting.err

        [closed] = (await run("limits", "--json", env=env)).out
        assert closed["limiter"].endswith(" sessions")
        assert closed["closedBy"] == "retry_after_capped"
        table = await run("limits", env=env)
        assert closed["limiter"] in table.text
        assert closed["closedUntil"][:10] in table.text
        assert "by the database's clock" in table.text

        opened = await run("limits", "--reset", closed["limiter"], env=env)

        assert (opened.code, opened.text) == (0, "")
        [trace, advice] = opened.err.splitlines()
        assert f"limiter {closed['limiter']!r} was reset by '{getpass.getuser()}'" in trace
        assert "keep their time" in advice
        assert (await run("limits", "--json", env=env)).out == []
        simulator.config = SimulatorConfig()
        made = await run("open", "-", env=env, stdin=guests.as_lines([guests.guest(2)]))
        assert [answer["status"] for answer in made.out] == ["active"]


async def test_reset_of_an_unknown_limiter_is_refused(database_url: str):
    async with Simulator() as simulator:
        opened = await run("limits", "--reset", "api.example.com sessions", env=environment(database_url, simulator))

    assert opened.code == 2
    assert "guestledger limits" in opened.err


async def test_worker_waits_for_the_token_limiter_at_its_start(database_url: str):
    async with Simulator(SimulatorConfig(token_throttle_times=1, retry_after_s=6)) as simulator:
        env = environment(database_url, simulator)
        opened = await run("open", "-", "--no-wait", env=env, stdin=guests.as_lines([guests.guest(1)]))
        assert [answer["status"] for answer in opened.out] == ["pending"]
        assert simulator.counts == {"token 429": 1}

        worked = await run("worker", "--until-idle", env=env)

        assert worked.code == 0, worked.err
        first, second = (sent.time for sent in simulator.requests if sent.path == "/oauth/token")
        assert second >= first + 6
        assert simulator.counts["session 201"] == 1
