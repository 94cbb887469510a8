"""Pages that people open in a browser, as pictures: in build/screenshots, and by `make screenshots` in docs/images."""

from pathlib import Path

import pytest

from guestledger.adapters.simulator import Simulator, SimulatorConfig
from tests.e2e import guests
from tests.e2e.command import environment, run
from tests.screenshots import DESKTOP, PHONE, needs_chromium, take

WHY = ("--reason", "request of 2026-11-29", "--by", "dpo")


@needs_chromium
@pytest.mark.slow
async def test_pages_for_people_are_pictured(database_url: str, tmp_path: Path) -> None:
    export, replay = tmp_path / "export.html", tmp_path / "replay.html"
    async with Simulator(SimulatorConfig(throttle_share=1.0, retry_after_s=1)) as simulator:
        env = environment(database_url, simulator)
        guest = guests.guest(0, subjectId="crm-1001", ipAddress="203.0.113.7", userAgent="Mozilla/5.0")
        opened = await run("open", guests.write_file(tmp_path, [guest]), env=env)
        exported = await run("export", "--subject", "crm-1001", *WHY, "--html", str(export), env=env)
        replayed = await run("replay", opened.out[0]["id"], "--html", str(replay), env=env)
    assert (opened.code, exported.code, replayed.code) == (0, 0, 0), (exported.err, replayed.err)

    for page in (export, replay):
        take(page, page.stem, DESKTOP, height=720, chosen=True)
        take(page, f"{page.stem}-dark", DESKTOP, dark=True)
        take(page, f"{page.stem}-phone", PHONE)
        take(page, f"{page.stem}-phone-dark", PHONE, dark=True)
