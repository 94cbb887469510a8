import asyncio

from tests.e2e.command import assert_one_line, environment, run

SECRET = "correct-horse-battery-staple"
SETTINGS = {
    "database_url": "postgresql://127.0.0.1:1/ledger",
    "cxone_url": "http://127.0.0.1:1",
    "cxone_client_id": "client",
    "cxone_client_secret": SECRET,
}

# Each with what the line about it names.
WRONG_USE = {
    ("open",): "file",
    ("open", "/no/such/file"): "/no/such/file",
    ("open", "-", "--concurrency", "many"): "--concurrency",
    ("teleport",): "teleport",
    ("audit", "--since", "yesterday"): "2024-05-20T14:22:00Z",
    ("audit", "--opened-until", "soon"): "--opened-until",
    ("audit", "--json", "--csv"): "--csv",
    ("audit", "--webhook", "lost"): "not_owed, owed, delivered, failed",
    ("audit", "--ip", "203.0.113.777"): "--ip",
    ("audit", "--reveal"): "--reason",
    ("audit", "--reveal", "--reason", ""): "--reason",
    ("audit", "--reveal", "--reason", "r", "--by", "a\nb"): "--by",
    ("audit", "--reason", "none"): "--reveal",
    ("replay", "sess_1", "--reveal", "--reason", "r"): "--json",
    ("events", "--reveal", "--reason", "r"): "--json",
    ("metrics", "--csv"): "--by-day",
    ("serve", "--host", ""): "--host",
    ("worker", "--metrics-port", "0", "--metrics-host", ""): "--metrics-host",
    ("replay", "sess_1", "--at", "noon"): "--at",
    ("replay", "sess_1", "--at", "²"): "--at",
    ("replay", "sess_1", "--diff", "1", "noon"): "--diff",
    ("replay", "sess_1", "--diff", "1", "2", "--at", "2"): "--at",
    ("replay", "sess_1", "--step", "--json"): "--step",
    ("replay", "sess_1", "--html", "/dev/null"): "/dev/null",
    ("events", "--after", "99999999999999999999"): "--after",
    ("events", "--since", "0001-01-01T00:00:00+14:00"): "--since",
    ("metrics", "--until", "9999-12-31T23:59:59-14:00"): "--until",
}

# Settings that are missing or no good, each with a command that needs them.
WRONG_SETTINGS = [
    ("cxone_url", "", ("worker",)),
    ("cxone_client_secret", "", ("open", "-")),
    ("cxone_url", f"ftp://{SECRET}", ("open", "-")),
    ("schema", f"{SECRET}!", ("db", "upgrade")),
    ("schema", f"{SECRET}!", ("db", "stop")),
    ("database_url", SECRET, ("db", "upgrade")),
    ("database_url", f"postgresql://ledger:{SECRET}/", ("sessions",)),
]


async def test_wrong_use_is_one_line():
    results = await asyncio.gather(*(run(*command, env=environment()) for command in WRONG_USE))

    for result, named in zip(results, WRONG_USE.values(), strict=True):
        assert_one_line(result, named)
        assert not result.text


async def test_invalid_setting_is_named_without_its_value():
    results = await asyncio.gather(
        *(run(*command, env=environment(**SETTINGS | {name: value})) for name, value, command in WRONG_SETTINGS)
    )

    for result, (name, _, _) in zip(results, WRONG_SETTINGS, strict=True):
        assert_one_line(result, f"GUESTLEDGER_{name.upper()}")
        assert SECRET not in result.err
        assert not result.text
