"""`guestledger partitions list`, `detach`, `attach` and `settle`, as a program and as a person meet them."""

from datetime import UTC, datetime

from tests import logs
from tests.e2e.command import assert_one_line, environment, run
from tests.postgres import as_administrator

IN_MARCH = datetime(2024, 3, 10, tzinfo=UTC)
EVENTS = 50


async def test_partition_is_settled_listed_detached_and_attached_again(database_url: str) -> None:
    env = environment(database_url, migration_url=as_administrator(database_url))
    await logs.write(database_url, EVENTS, began=IN_MARCH)
    await logs.write(database_url, EVENTS, after=EVENTS - 1)

    unpartitioned = (await run("partitions", "list", env=env)).text
    settled = await run("partitions", "settle", env=env)
    await run("sessions", env=env)  # which brings the projections up to date
    digest = (await run("verify", "--json", env=env)).out[0]["digest"]
    detached = await run("partitions", "detach", "2024-03", env=env)
    compared = await run("verify", "--digest", digest, env=env)
    listed = await run("partitions", "list", "--json", env=env)
    verified = await run("projections", "verify", env=env)
    attached = await run("partitions", "attach", "2024-03", env=env)
    shown = (await run("partitions", "list", env=env)).text

    assert "not empty: `guestledger partitions settle`" in unpartitioned
    assert (settled.code, settled.err) == (0, f"guestledger: {EVENTS} events moved into new partitions\n")
    assert (detached.code, detached.err) == (
        0,
        f"guestledger: 2024-03 is detached: {EVENTS} events, verified against their hashes\n",
    )
    assert compared.code == 1
    assert "cannot be compared: attach the detached months first" in " ".join(compared.text.split())
    march, this_month, *_, none = listed.out
    assert (march["month"], march["attached"], march["firstPosition"], march["lastPosition"]) == (
        "2024-03",
        False,
        0,
        49,
    )
    assert (this_month["month"], this_month["attached"]) == (f"{datetime.now(UTC):%Y-%m}", True)
    assert (none["month"], none["firstPosition"]) == (None, None)
    assert (verified.code, verified.text.count("match the log")) == (0, 3)
    assert (attached.code, attached.err) == (
        0,
        f"guestledger: 2024-03 is attached: {EVENTS} events, the same that were detached\n",
    )
    assert len(shown.splitlines()) == 1 + 6
    assert "not empty" not in shown
    assert max(map(len, shown.splitlines())) <= 80


async def test_refused_detach_is_one_line(database_url: str) -> None:
    env = environment(database_url, migration_url=as_administrator(database_url))
    await logs.write(database_url, EVENTS)

    this_month = f"{datetime.now(UTC):%Y-%m}"
    assert_one_line(await run("partitions", "detach", this_month, env=env), this_month, "its month is not over")
    assert_one_line(
        await run("partitions", "detach", "2024-03", env=env),
        "2024-03 cannot be changed: it is not attached",
        "partitions list",
    )
    assert_one_line(await run("partitions", "attach", "March", env=env), "'March' is not a month such as 2026-11")
    runtimes = environment(database_url)
    assert_one_line(await run("partitions", "settle", env=runtimes), "GUESTLEDGER_MIGRATION_URL", "guestledger_owner")
