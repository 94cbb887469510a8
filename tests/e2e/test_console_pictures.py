"""The pages of the console as pictures, on a phone and a desk, dark and light: in build/screenshots."""

import asyncio

import pytest
from selenium.common.exceptions import WebDriverException
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


@pytest.mark.slow
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
    assert len(list(BUILT.glob("console-*.png"))) >= 4 * 12


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
            "audit-one": f"audit?session={sessions['refused']}",
        }
        for name, path in pages.items():
            driver.get(f"{url}/{path}")
            _wait(driver, "main h1")
            if suffix == "desk" and name in CHOSEN:
                keep(f"console-{name}", driver.get_screenshot_as_png(), chosen=True)
            _write(driver, f"console-{name}-{suffix}")
        for name, channel in (("found", "ch_main"), ("nothing-found", "ch_nowhere")):
            driver.get(f"{url}/find")
            driver.find_element(By.ID, "around").send_keys("1 minute ago")
            driver.find_element(By.ID, "channel").send_keys(channel)
            driver.find_element(By.CSS_SELECTOR, "main form button").click()
            _wait(driver, "#found")
            _write(driver, f"console-{name}-{suffix}")
        driver.get(f"{url}/no/such/page")
        _wait(driver, ".alert")
        driver.get_log("browser")  # a 404 is one of its errors
        _write(driver, f"console-no-page-{suffix}")
        driver.find_element(By.CSS_SELECTOR, "main a").click()
        _wait(driver, "#live")
        driver.find_element(By.CSS_SELECTOR, ".who button").click()
        _wait(driver, "#key")
        _write(driver, f"console-sign-in-{suffix}")
        sign_in(driver, url, keys[Role.PRIVACY])
        driver.get(f"{url}/sessions/{sessions['active']}")
        driver.find_element(By.ID, "why-look").send_keys("access request 12")
        driver.find_element(By.CSS_SELECTOR, "form[action$=reveal] button").click()
        _wait(driver, ".alert")
        _write(driver, f"console-reveal-{suffix}")


def sign_in(driver: Chrome, url: str, key: str) -> None:
    """Sign in with the form."""
    driver.get(f"{url}/sign-in")
    driver.find_element(By.ID, "key").send_keys(key)
    driver.find_element(By.CSS_SELECTOR, "main button").click()
    _wait(driver, "#live")


def _wait(driver: Chrome, element: str) -> None:
    """Wait for the page with this element, until it is loaded: before, it has no styles, and may be wider than the screen."""
    ready = "return document.readyState === 'complete' && document.querySelector(arguments[0]) !== null"
    waiting = WebDriverWait(
        driver, 30, ignored_exceptions=[WebDriverException]
    )  # between two pages there is none to ask
    waiting.until(lambda page: page.execute_script(ready, element))


def _write(driver: Chrome, name: str) -> None:
    """The whole page, however long it is. None is wider than the screen."""
    size = driver.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert size[0] <= size[1], (name, size)
    height = driver.execute_script("return document.documentElement.scrollHeight")
    screen = {"width": size[1], "height": min(height, 8_000), "deviceScaleFactor": 1, "mobile": size[1] < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    driver.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    keep(name, driver.get_screenshot_as_png())
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {**screen, "height": HEIGHT})
    errors = [line for line in driver.get_log("browser") if line["level"] == "SEVERE"]
    assert not errors, (name, errors)
