"""Pages that people open in a browser, as pictures: in build/screenshots, and by `make screenshots` in docs/images."""

from pathlib import Path

from guestledger.adapters.simulator import Simulator
from tests.e2e import guests
from tests.e2e.command import environment, run
from tests.screenshots import DESKTOP, PHONE, needs_chromium, take

WHY = ("--reason", "request of 2026-11-29", "--by", "dpo")


@needs_chromium
async def test_export_page_is_pictured(database_url: str, tmp_path: Path) -> None:
    page = tmp_path / "person.html"
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        guest = guests.guest(0, subjectId="crm-1001", ipAddress="203.0.113.7", userAgent="Mozilla/5.0")
        file = guests.write_file(tmp_path, [guest])
        assert (await run("open", file, env=env)).code == 0
        exported = await run("export", "--subject", "crm-1001", *WHY, "--html", str(page), env=env)
    assert exported.code == 0, exported.err

    take(page, "export", DESKTOP, chosen=True)
    take(page, "export-dark", DESKTOP, dark=True)
    take(page, "export-phone", PHONE)
    take(page, "export-phone-dark", PHONE, dark=True)
