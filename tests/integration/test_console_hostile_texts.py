"""Whatever a guest, a provider or a colleague wrote stays text on every page."""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from msgspec.structs import asdict, replace

from guestledger.adapters.api.access import digest_of, key_text, new_secret
from guestledger.engine.domain.events import Event
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import served
from tests.console import Browser, Page, browser_of
from tests.integration.appends import an_append
from tests.integration.conftest import NewLedger
from tests.unit import samples as s

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>{{ 731*977 }}"
# Codes in texts: anything else there would be no event of this ledger.
KEPT = {"failed", "flags"}

HISTORIES: dict[str, tuple[Event, ...]] = {
    "opened": (
        s.was_recorded(),
        s.was_validated(),
        s.was_deferred(),
        s.was_attempted(),
        s.was_throttled(),
        s.was_attempted(2),
        s.was_created(2),
        s.webhook_failed(),
        s.webhook_abandoned(),
        s.redelivery_requested(),
        s.was_synced(),
        s.was_withdrawn(),
    ),
    "parked": (s.was_recorded(), s.was_validated(), s.was_attempted(), s.has_failed(), s.was_parked()),
    "decided": (
        s.was_recorded(),
        s.was_validated(),
        s.was_attempted(),
        s.has_failed(),
        s.was_parked(),
        s.retry_decided(),
        s.was_attempted(2),
        s.has_failed(2),
        s.was_parked(2),
        s.doubt_lifted(1),
        s.was_duplicated(1),
        s.was_held(),
        s.was_released(),
        s.abandonment_decided(),
    ),
    "adopted": (
        s.was_recorded(),
        s.was_validated(),
        s.was_attempted(),
        s.has_failed(),
        s.was_parked(),
        s.was_adopted(),
    ),
    "rejected": (s.was_recorded(), s.was_rejected()),
    "not looked up": (s.was_recorded(), s.lookup_failed(), s.was_abandoned()),
    "refused": (s.was_refused(),),
}


def hostile(value: Any) -> Any:
    """`value` with the hostile text in each free text field, at any depth."""
    if isinstance(value, msgspec.Struct):
        return replace(
            value, **{name: field if name in KEPT else hostile(field) for name, field in asdict(value).items()}
        )
    if isinstance(value, tuple):
        return tuple(map(hostile, value))
    return HOSTILE if type(value) is str else value


@pytest.fixture
async def sessions(ledger: Ledger) -> list[str]:
    store: Any = ledger._adapters.store  # type: ignore[attr-defined]
    ids = []
    for events in HISTORIES.values():
        append = an_append(events=[hostile(event) for event in events], actor=HOSTILE, correlation_id=HOSTILE)
        await store.append(append)
        ids.append(str(append.stream_id))
    return ids


@pytest.fixture
async def ledger(new_ledger: NewLedger) -> Any:
    async with new_ledger() as opened:
        yield opened


async def sign_in(browser: Browser, ledger: Ledger, role: Role) -> None:
    secret = new_secret()
    key = await ledger.access.add(HOSTILE, role, digest_of(secret), created_by=HOSTILE)
    assert (await browser.sign_in(key_text(key.id, secret))).status == 303


def assert_only_text(page: Page, where: str) -> None:
    assert not [attrs for attrs in page.all("script") if "src" not in attrs], where
    assert len(page.all("script")) == 1, where
    assert not page.all("img"), where
    assert not [attrs for _, attrs in page.elements if any(name.startswith("on") for name in attrs)], where
    assert "714187" not in page.text.split(), where


@pytest.mark.parametrize("role", list(Role))
async def test_hostile_text_stays_text_on_every_page(ledger: Ledger, sessions: list[str], role: Role) -> None:
    shown = 0
    async with served(ledger, "aiohttp") as url, browser_of(url) as browser:
        await sign_in(browser, ledger, role)
        for session in sessions:
            versions = (await ledger.session(session)).version
            paths = [f"sessions/{session}?at={version}" for version in range(1, versions + 1)]
            for path in (*paths, f"sessions/{session}/what-if?maxFailures=1", f"sessions/{session}/what-if?policy={{"):
                reply = await browser.get(path)
                assert reply.status in (200, 422), (path, reply.status, reply.text)
                assert_only_text(reply.page, path)
                shown += reply.page.text.count(HOSTILE)
            if role is Role.PRIVACY:
                revealed = await browser.post(f"sessions/{session}/reveal", {"reason": HOSTILE})
                assert revealed.status == 200
                assert_only_text(revealed.page, "reveal")
                shown += revealed.page.text.count(HOSTILE)
        for path in ("", "audit", "find"):
            assert_only_text((await browser.get(path)).page, path)
        found = {
            "find": {"session": HOSTILE, "channel": HOSTILE, "around": HOSTILE, "correlation": HOSTILE},
            "audit": {"channel": HOSTILE, "notice": HOSTILE, "decidedBy": HOSTILE},
        }
        for path, form in found.items():
            reply = await browser.post(path, form)
            assert reply.status in (200, 422)
            assert_only_text(reply.page, path)
        assert_only_text((await browser.get(f"sessions/{quote(HOSTILE, safe='')}")).page, "404")
    assert shown > 300, shown
