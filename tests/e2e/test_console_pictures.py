"""The pages of the console as pictures, on a phone and a desk, dark and light: in build/screenshots."""

import asyncio

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from guestledger.adapters.simulator import Simulator
from guestledger.engine.ports.access_keys import Role
from tests.api import new_key, served
from tests.e2e.command import environment
from tests.lived_in import Sessions, lived_in
from tests.screenshots import BUILT, DESKTOP, PHONE, browser, keep, needs_chromium

CHOSEN = ("overview", "session", "audit")
"""Shown in docs/console.md."""
HEIGHT = 760


@needs_chromium
async def test_each_page_is_pictured(database_url: str) -> None:
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        async with lived_in(env, simulator) as (ledger, sessions), served(ledger, "aiohttp") as url:
            keys = {role: await new_key(ledger, role, f"{role} jane") for role in Role}
            for width, name in ((PHONE, "phone"), (DESKTOP, "desk")):
                for dark in (False, True):
                    suffix = f"{name}-dark" if dark else name
                    await asyncio.to_thread(_picture_all, url, keys, sessions, width, dark, suffix)
    assert len(list(BUILT.glob("console-*.png"))) >= 4 * 8


def _picture_all(url: str, keys: dict[Role, str], sessions: Sessions, width: int, dark: bool, suffix: str) -> None:
    with browser(width, HEIGHT, dark=dark) as driver:
        sign_in(driver, url, keys[Role.OPERATOR])
        pages = {
            "overview": "",
            "find": "find",
            "session": f"sessions/{sessions['retried']}",
            "session-parked": f"sessions/{sessions['parked']}",
            "session-throttled": f"sessions/{sessions['throttled']}",
            "audit": "audit",
            "what-if": f"sessions/{sessions['throttled']}/what-if?deadlineMs=1",
        }
        for name, path in pages.items():
            driver.get(f"{url}/{path}")
            if suffix == "desk" and name in CHOSEN:
                keep(f"console-{name}", driver.get_screenshot_as_png(), chosen=True)
            _write(driver, f"console-{name}-{suffix}")
        driver.find_element(By.CSS_SELECTOR, ".who button").click()
        WebDriverWait(driver, 30).until(lambda page: page.find_elements(By.ID, "key"))
        _write(driver, f"console-sign-in-{suffix}")
        sign_in(driver, url, keys[Role.PRIVACY])
        driver.get(f"{url}/sessions/{sessions['active']}")
        driver.find_element(By.ID, "why-look").send_keys("access request 12")
        driver.find_element(By.CSS_SELECTOR, "form[action$=reveal] button").click()
        WebDriverWait(driver, 30).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".alert"))
        _write(driver, f"console-reveal-{suffix}")


def sign_in(driver: Chrome, url: str, key: str) -> None:
    """Sign in with the form."""
    driver.get(f"{url}/sign-in")
    driver.find_element(By.ID, "key").send_keys(key)
    driver.find_element(By.CSS_SELECTOR, "main button").click()
    WebDriverWait(driver, 30).until(lambda page: page.current_url == f"{url}/")


def _write(driver: Chrome, name: str) -> None:
    """The whole page, however long it is. None is wider than the screen."""
    size = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert size[0] <= size[1], (name, size)
    height = driver.execute_script("return document.documentElement.scrollHeight")
    screen = {"width": size[1], "height": min(height, 6_000), "deviceScaleFactor": 1, "mobile": size[1] < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    keep(name, driver.get_screenshot_as_png())
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**screen, "height": HEIGHT})
    errors = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    assert not errors, (name, errors)
