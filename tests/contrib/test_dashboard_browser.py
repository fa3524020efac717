"""``Dashboard`` in headless chromium: on a desktop and a phone, light and dark, by keyboard, and with hostile text."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, expect, sync_playwright

from tests.conftest import skip_or_fail
from tests.contrib.watching import HOSTILE, WatchedServer
from tests.support.effort import all_effort
from tests.support.servers import ServerMissing
from tests.support.servers.programs import find_program

pytestmark = pytest.mark.slow(because="starts a browser")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SHOTS = os.environ.get("AIOMODELCACHE_SCREENSHOTS")
"""A folder for screenshots, if they are wanted."""
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = ""
    try:
        program = find_program(CHROMIUM)
    except ServerMissing as error:
        missing = str(error)
    if missing:
        skip_or_fail("chromium", missing)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedServer]:
    database = tmp_path_factory.mktemp("watched") / "shop.sqlite3"
    with WatchedServer("memory://", database, allow_clear=True, debug=True) as started:
        started.ask_for("/fill")
        yield started


Open = Callable[..., Page]


def is_fault(message: ConsoleMessage) -> bool:
    """Returns True for an error on the console. A refused lookup is there, too, and is none."""
    return message.type == "error" and "a status of 422" not in message.text


@pytest.fixture
def open_page(browser: Browser, server: WatchedServer) -> Iterator[Open]:
    """Opens the dashboard in a context of its own. No page may complain, ask another server, or open a dialog."""
    complaints: list[str] = []
    contexts = []

    def opened(path: str = "/cache/", url: str = server.url, **options: Any) -> Page:
        context = browser.new_context(**(DESKTOP | options))
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if is_fault(message) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda r: None if r.url.startswith(url) else complaints.append(r.url))
        page.set_default_timeout(20_000)
        page.goto(url + path)
        expect(page.locator("#status")).to_have_text("Live", timeout=20_000)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def names(page: Page) -> list[str]:
    """The classes in the table, in its order."""
    return page.locator("#class-table tbody td.name").all_inner_texts()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


# On each device ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "scheme"),
    [
        pytest.param(DESKTOP, "light", id="desktop-light"),
        pytest.param(PHONE, "dark", id="phone-dark"),
        pytest.param(DESKTOP, "dark", id="desktop-dark", marks=all_effort),
        pytest.param(PHONE, "light", id="phone-light", marks=all_effort),
    ],
)
def test_it_is_accessible(open_page: Open, server: WatchedServer, device: dict[str, Any], scheme: str) -> None:
    server.ask_for("/work")
    page = open_page(color_scheme=scheme, **device)
    page.fill("#target", "Listing")
    page.fill("#arguments", "slug=secret-3")
    page.click("text=Inspect")
    expect(page.locator("#answer dl").first).to_contain_text("Listing (slug)")
    expect(page.locator("#keys li").first).to_be_visible()
    name = f"{'phone' if device is PHONE else 'desktop'}-{scheme}"
    shoot(page, name)
    assert complaints_of(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls to the side"
    red, green, blue = map(
        int, re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))[:3]
    )
    assert (red + green + blue > 3 * 128) is (scheme == "light")

    if device is PHONE:
        return
    page.select_option("#clear-target", "Listing")
    page.click("#clear button")
    expect(page.locator("#confirm")).to_be_visible()
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}-dialog.png")
    assert complaints_of(page) == []


def complaints_of(page: Page) -> list[tuple[str, list[str]]]:
    """The rules that axe finds broken, with the elements that break them."""
    found = Axe().run(page).response["violations"]
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


# What it shows -----------------------------------------------------------------------------------------------


def test_numbers_and_charts_follow_the_work(open_page: Open, server: WatchedServer) -> None:
    page = open_page()
    hits = (
        page.locator("#class-table tr", has=page.locator("td.name", has_text=re.compile("^Seller$")))
        .locator("td")
        .nth(4)
    )
    before = int(hits.inner_text())
    for _ in range(3):
        server.ask_for("/work")
    expect(hits).to_have_text(str(before + 3), timeout=20_000)
    expect(page.locator("#chart-lookups path.line").first).to_have_count(1, timeout=20_000)
    expect(page.locator("#chart-ratio svg")).to_have_attribute("aria-label", re.compile(r"hit ratio: \d+\.\d %"))
    expect(page.locator("#keys li em").first).to_have_text(re.compile(r"/s$"))
    expect(page.locator("#writes li").first).to_contain_text("invalidated")
    expect(page.locator("#fleet-table tbody tr")).to_have_count(1)
    expect(page.locator("#store-state")).to_have_text("healthy")


def test_hostile_text_stays_text(open_page: Open) -> None:
    page = open_page()
    assert any(HOSTILE in name for name in names(page))
    page.fill("#target", HOSTILE)
    page.fill("#arguments", f"'{HOSTILE.replace(chr(39), '')}'")
    page.click("text=Inspect")
    expect(page.locator("#answer")).to_contain_text(HOSTILE)
    page.fill("#target", f"{HOSTILE}{HOSTILE}")
    page.click("text=Explain")
    expect(page.locator("#answer [role=alert]")).to_contain_text(f"Nothing cached is called {HOSTILE}")
    page.select_option("#clear-target", HOSTILE)
    page.click("#clear button")
    expect(page.locator("#confirm-title")).to_have_text(f"Clear {HOSTILE}?")
    page.keyboard.press("Escape")
    page.fill("#search", HOSTILE * 2)
    expect(page.locator("#class-empty")).to_contain_text(HOSTILE.lower())
    assert page.locator("img").count() == 1, "the icon alone"


def test_the_page_can_make_no_markup_of_text(browser: Browser, server: WatchedServer) -> None:
    """So a mistake in the script is an error of the page, which the other tests would see."""
    page = browser.new_context().new_page()
    page.goto(f"{server.url}/cache/")
    with pytest.raises(Error, match="TrustedHTML"):
        page.evaluate("document.body.innerHTML = '<b>bold</b>'")
    page.context.close()


def test_values_are_hidden(open_page: Open) -> None:
    page = open_page()
    page.fill("#target", "Listing")
    page.fill("#arguments", "slug=secret-3")
    page.click("text=Explain")
    expect(page.locator("#answer")).to_contain_text("Entries")
    assert "secret" not in page.locator("#answer").inner_text() + page.locator("#keys").inner_text()
    assert "hidden-" not in page.locator("body").inner_text()


# By keyboard -------------------------------------------------------------------------------------------------


def test_classes_are_searched_and_sorted_by_keyboard(open_page: Open) -> None:
    page = open_page()
    page.keyboard.press("/")
    page.keyboard.type("MARK")
    assert set(names(page)) == {"Mark", "Listing.marks"}
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    assert len(names(page)) > 8
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Class":
            break
    page.keyboard.press("Enter")
    head = page.locator("#class-table th").first
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert names(page) == sorted(names(page))
    page.keyboard.press("Space")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert names(page) == sorted(names(page), reverse=True)


def test_a_lookup_is_explained_by_keyboard(open_page: Open, server: WatchedServer) -> None:
    page = open_page()
    page.focus("#target")
    page.keyboard.type("Listing")
    page.keyboard.press("Escape")  # the list of suggestions
    page.keyboard.press("Tab")
    page.keyboard.type("slug=secret-4")
    page.keyboard.press("Enter")
    expect(page.locator("#answer dl").first).to_contain_text("hit")
    page.keyboard.press("Control+A")
    page.keyboard.type("slug='")
    page.keyboard.press("Enter")
    expect(page.locator("#answer [role=alert]")).to_have_text("A quotation mark is not closed.")


def test_a_model_is_cleared_behind_a_confirmation(open_page: Open, server: WatchedServer) -> None:
    page = open_page()
    page.fill("#target", "Seller")
    page.fill("#arguments", "id=1")
    page.click("text=Explain")
    expect(page.locator("#answer dl").first).to_contain_text("cache")
    page.select_option("#clear-target", "Seller")
    page.focus("#clear button")
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    assert page.evaluate("document.activeElement.textContent") == "Cancel", "the safe answer has the focus"
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    page.click("text=Explain")
    expect(page.locator("#answer dl").first).to_contain_text("sourcecache")
    page.focus("#clear button")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#cleared")).to_have_text("Cleared Seller.")
    page.click("text=Explain")
    expect(page.locator("#answer dl").first).to_contain_text("sourcedatabasereasoncleared")


def test_without_the_setting_nothing_can_be_cleared(open_page: Open) -> None:
    page = open_page("/readonly/")
    expect(page.locator("#foot")).to_contain_text("Read-only.")
    assert not page.locator("#clear-card").is_visible()


# The connection ----------------------------------------------------------------------------------------------


def test_a_server_that_goes_away_and_comes_back_is_shown(browser: Browser, tmp_path: Path) -> None:
    """The browser says on its console that it cannot connect, so this page is not one of the others."""
    with WatchedServer("memory://", tmp_path / "shop.sqlite3", debug=True) as own:
        page = browser.new_context().new_page()
        page.goto(f"{own.url}/cache/")
        status = page.locator("#status")
        expect(status).to_have_text("Live", timeout=20_000)
        expect(page.locator("#class-empty")).to_be_hidden()
        own.kill()
        expect(status).to_have_text("Disconnected", timeout=20_000)
        own.restart()
        expect(status).to_have_text("Live", timeout=20_000)
        page.context.close()
