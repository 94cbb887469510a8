"""The console in a browser, beside the command: both show the same."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from guestledger.adapters.forms.values import given, value
from guestledger.adapters.simulator import Simulator
from guestledger.engine.ledger import Ledger
from guestledger.engine.ports.access_keys import Role
from tests.api import new_key, served
from tests.console import browser_of
from tests.e2e.command import environment, run
from tests.lived_in import GUEST, Sessions, lived_in
from tests.screenshots import browser, needs_chromium

pytestmark = needs_chromium


class House(NamedTuple):
    """A ledger with sessions, its console, and the environment of commands."""

    ledger: Ledger
    sessions: Sessions
    url: str
    env: Mapping[str, str]


@asynccontextmanager
async def house_of(database_url: str) -> AsyncIterator[House]:
    async with Simulator() as simulator:
        env = environment(database_url, simulator)
        async with lived_in(env, simulator) as (ledger, sessions), served(ledger, "aiohttp") as url:
            yield House(ledger, sessions, url, env)


async def in_browser(url: str, key: str, work: Callable[[Chrome], Any]) -> Any:
    """What `work` returns, in a browser that has signed in. It runs in a thread: the server needs this one."""

    def whole() -> Any:
        with browser() as driver:
            driver.get(f"{url}/sign-in")
            driver.find_element(By.ID, "key").send_keys(key + Keys.ENTER)
            WebDriverWait(driver, 30).until(lambda page: page.current_url == f"{url}/")
            found = work(driver)
            assert [line for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []
            return found

    return await asyncio.to_thread(whole)


async def test_the_overview_counts_a_new_session_without_a_reload(database_url: str) -> None:
    async with house_of(database_url) as house:
        loop = asyncio.get_running_loop()
        for name in await house.ledger.limits.states():
            await house.ledger.limits.reset(name, requested_by="tests")

        def watch(driver: Chrome) -> tuple[int, int]:
            driver.execute_script("window.sameDocument = true")
            # Its first event is there: from then on, growth is noticed.
            WebDriverWait(driver, 30).until(
                lambda page: page.execute_script("return document.documentElement.dataset.live")
            )
            before = int(driver.find_element(By.ID, "opened").text)
            asyncio.run_coroutine_threadsafe(house.ledger.open_session(GUEST), loop).result(30)
            WebDriverWait(driver, 30).until(lambda page: page.find_element(By.ID, "opened").text == str(before + 1))
            assert driver.execute_script("return window.sameDocument")
            return before, int(driver.find_element(By.ID, "opened").text)

        before, after = await in_browser(house.url, await new_key(house.ledger, Role.AUDITOR), watch)
    assert after == before + 1


async def test_the_slider_shows_what_replay_prints(database_url: str) -> None:
    async with house_of(database_url) as house:
        session = house.sessions["retried"]
        versions = (await house.ledger.session(session)).version

        def slide(driver: Chrome) -> dict[int, dict[str, str]]:
            driver.get(f"{house.url}/sessions/{session}")
            slider = driver.find_element(By.ID, "at")
            shown = {versions: _facts(driver)}
            for version in range(versions - 1, 0, -1):
                slider.send_keys(Keys.ARROW_LEFT)
                WebDriverWait(driver, 30).until(
                    lambda page, wanted=version: (
                        page.execute_script("return document.documentElement.dataset.shown") == str(wanted)
                    )
                )
                shown[version] = _facts(driver)
            return shown

        shown = await in_browser(house.url, await new_key(house.ledger, Role.AUDITOR), slide)
        assert len(shown) == versions > 5
        for version, facts in shown.items():
            printed = await run("replay", str(session), "--at", str(version), "--json", env=house.env)
            frame = printed.out[0]["frames"][-1]
            day = _typed(printed.out[0]["frames"][0]["recordedAt"]).date()
            assert frame["version"] == version
            assert facts == {name: value(found, day) for name, found in given(_values(frame["state"])).items()}


def _facts(driver: Chrome) -> dict[str, str]:
    script = "return [...document.querySelectorAll('#state dt')].map(dt => [dt.textContent, dt.nextElementSibling.textContent])"
    return dict(driver.execute_script(script))


def _values(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state in JSON with times and lists as a state has them. The guest's own time is a text."""
    found = {name: _values(each) if isinstance(each, dict) else _typed(each) for name, each in state.items()}
    return found | {"timestamp": state["timestamp"]} if "fingerprint" in state else found


def _typed(found: Any) -> Any:
    if isinstance(found, list):
        return tuple(found)
    try:
        return msgspec.convert(found, datetime) if isinstance(found, str) else found
    except msgspec.ValidationError:
        return found


async def test_downloads_of_the_audit_log_equal_what_the_command_prints(database_url: str) -> None:
    async with house_of(database_url) as house, browser_of(house.url) as plain:
        await plain.sign_in(await new_key(house.ledger, Role.AUDITOR))
        for given, options in (
            ({}, ()),
            ({"status": "verified", "channel": "ch_main"}, ("--status", "verified", "--channel", "ch_main")),
            ({"webhook": "failed"}, ("--webhook", "failed")),
            ({"parked": "true"}, ("--parked",)),
            ({"session": str(house.sessions["refused"])}, ("--session", str(house.sessions["refused"]))),
            (
                {"openedSince": "2020-01-01", "notice": "privacy-2026"},
                ("--opened-since", "2020-01-01", "--notice", "privacy-2026"),
            ),
        ):
            for form in ("csv", "json"):
                reply = await plain.post("audit", {**given, "format": form})
                assert reply.status == 200
                assert reply.text == (await run("audit", f"--{form}", *options, env=house.env)).text, (given, form)


async def test_a_reveal_is_in_the_log_of_looks(database_url: str) -> None:
    async with house_of(database_url) as house:
        session = house.sessions["active"]

        def reveal(driver: Chrome) -> str:
            driver.get(f"{house.url}/sessions/{session}")
            assert GUEST.ip_address not in driver.page_source
            driver.find_element(By.ID, "why-look").send_keys("complaint 4711" + Keys.ENTER)
            WebDriverWait(driver, 30).until(lambda page: page.find_elements(By.CSS_SELECTOR, ".alert"))
            return str(driver.page_source)

        page = await in_browser(house.url, await new_key(house.ledger, Role.PRIVACY, "dpo"), reveal)
        assert GUEST.ip_address in page
        looks = (await run("events", "--type", "PersonalDataRevealed", "--json", env=house.env)).out
    assert [(look["actor"], look["data"]["reason"]) for look in looks] == [("dpo", "complaint 4711")]


async def test_a_person_decides_in_the_browser(database_url: str) -> None:
    async with house_of(database_url) as house:
        session = house.sessions["parked"]

        def decide(driver: Chrome) -> str:
            driver.get(f"{house.url}/sessions/{session}")
            driver.find_element(By.CSS_SELECTOR, "input[value=abandon]").click()
            driver.find_element(By.ID, "why-decided").send_keys("nothing at the provider" + Keys.ENTER)
            WebDriverWait(driver, 30).until(lambda page: not page.find_elements(By.ID, "decide"))
            return str(driver.find_element(By.CSS_SELECTOR, ".lead").text)

        lead = await in_browser(house.url, await new_key(house.ledger, Role.OPERATOR, "jane"), decide)
        last = (await house.ledger.history(session))[-1]
    assert lead.startswith("abandoned")
    assert last.actor == "jane"
