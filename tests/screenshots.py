"""Pictures of pages, by a headless Chromium: `take(page, name, width=PHONE, dark=True)`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

ROOT = Path(__file__).parents[1]
BUILT = ROOT / "build" / "screenshots"
COMMITTED = ROOT / "docs" / "images"
MAX_BYTES = 150_000
"""The maximum size of a committed picture."""
PHONE = 390
DESKTOP = 1280

_CHROMIUM = shutil.which("chromium")
_DRIVER = shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (_CHROMIUM and _DRIVER), reason="no Chromium here: apt-get install chromium chromium-driver"
)
"""Skips a test where no Chromium is installed."""


@contextmanager
def browser(width: int = DESKTOP, height: int = 900, *, dark: bool = False) -> Iterator[Chrome]:
    """A headless Chromium that finds no other host. `width` and `height` are CSS pixels."""
    options = ChromeOptions()
    options.binary_location = str(_CHROMIUM)
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it does not start as root otherwise, as in a container
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(executable_path=_DRIVER))
    try:
        # A window is never narrower than 500 pixels; the screen that it emulates is.
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def take(
    page: Path | str, name: str, width: int = DESKTOP, *, height: int = 900, dark: bool = False, chosen: bool = False
) -> Path:
    """Take a picture of a file or URL and return its path, build/screenshots/NAME.png.

    A chosen one is written into docs/images, too, when the environment has `UPDATE_SCREENSHOTS=1`, as `make screenshots` sets it.
    """
    with browser(width, height, dark=dark) as driver:
        driver.get(page if isinstance(page, str) else page.resolve().as_uri())
        picture = driver.get_screenshot_as_png()
    return keep(name, picture, chosen=chosen)


def keep(name: str, picture: bytes, *, chosen: bool = False) -> Path:
    """Write a picture, as `take` does, and return its path."""
    _write(BUILT, name, picture)
    if chosen and os.environ.get("UPDATE_SCREENSHOTS"):
        assert len(picture) <= MAX_BYTES, f"{name}.png has {len(picture)} bytes: make it smaller"
        _write(COMMITTED, name, picture)
    return BUILT / f"{name}.png"


def _write(folder: Path, name: str, picture: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.png").write_bytes(picture)
