"""The page in a real browser: it renders, says nothing on the console, fetches nothing, and fits every medium."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from reports import ATTACK, blocks_report, full_report, hostile_report, sparse_report

from secateur.report import page, write_page

pytestmark = pytest.mark.e2e

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
REPORT = full_report()
PAGES = {
    "one": {"half": REPORT},
    "connections": {"sparse": sparse_report()},
    "blocks": {"blocks": blocks_report()},
    "kinds": {"half": REPORT, "sparse": sparse_report(), "blocks": blocks_report()},
    "several": {"half": REPORT, "third": replace(REPORT, scores=None), "bare": full_report(0)},
    "hostile": {ATTACK: hostile_report()},
    "hostile, several": {ATTACK: hostile_report(), "half": REPORT},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """An installed Chromium; on CI there must be one."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip(f"no browser: install Chromium, so that one of {', '.join(NAMES)} is found")
    assert program, "CI installs Chromium"
    with sync_playwright() as playwright:
        # Root, as in containers, has no sandbox; the page is our own.
        sandbox = [] if not hasattr(os, "getuid") or os.getuid() else ["--no-sandbox"]
        quiet = ["--disable-gpu", "--disable-background-networking", "--disable-component-update"]
        launched = playwright.chromium.launch(executable_path=program, args=[*sandbox, *quiet])
        yield launched
        launched.close()


class Visit:
    """An open page, and everything that a good one leaves empty."""

    def __init__(self, browser: Browser, path: Path, width: int = 1280, dark: bool = False) -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
        )
        self.page: Page = self.context.new_page()
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.trouble.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Page:
        return self.page

    def __exit__(self, kind: object, *_: object) -> None:
        requests = [url for url in self.requests if not url.startswith("data:")]
        self.context.close()
        if kind is None:
            assert self.trouble == []
            assert len(requests) == 1
            assert requests[0].startswith("file:")


@pytest.fixture(scope="module", params=PAGES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "report.html", page(PAGES[request.param]))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(tmp_path_factory.mktemp("page") / "report.html", page(PAGES["one"]))


OPEN = "for (const d of document.querySelectorAll('details')) d.open = true"
OUTSIDE = """() => [...document.querySelectorAll('body *')]
    .filter(e => !e.closest('pre, .scroll, .hidden') && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.outerHTML.slice(0, 80))"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll('svg text')]
    .map(e => parseFloat(getComputedStyle(e).fontSize) * e.getScreenCTM().a))"""
# Contrast of text with the page, as WCAG 2 defines it, for each element that holds text of its own.
CONTRASTS = """() => {
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll('body *')]
        .filter(e => !e.closest('.number') && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
        .filter(e => e.tagName != 'title')
        .map(e => {
            const style = getComputedStyle(e), ink = light(e.closest('svg') ? style.fill : style.color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
        });
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_it_renders_on_a_desk(browser: Browser, path: Path, dark: bool) -> None:
    with Visit(browser, path, dark=dark) as shown:
        assert shown.locator("h1").is_visible()
        assert shown.locator(".brand").is_visible()
        shown.evaluate(OPEN)
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1280
        assert len(shown.screenshot(full_page=True)) > 10_000


def test_it_fits_a_phone(browser: Browser, path: Path) -> None:
    with Visit(browser, path, width=360) as shown:
        for script in ("0", OPEN):
            shown.evaluate(script)
            assert shown.evaluate("document.documentElement.scrollWidth") == 360
            assert shown.evaluate(OUTSIDE) == []


def test_the_writing_in_charts_can_be_read_on_a_phone(browser: Browser, one: Path) -> None:
    with Visit(browser, one, width=360) as shown:
        shown.evaluate(OPEN)
        assert shown.evaluate(SMALLEST) >= 7
        assert shown.locator("svg.plot").first.bounding_box()["width"] >= 300  # type: ignore[index]


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_stands_out(browser: Browser, path: Path, dark: bool) -> None:
    with Visit(browser, path, dark=dark) as shown:
        shown.evaluate(OPEN)
        paper = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(20, 23, 21)" if dark else "rgb(252, 252, 250)")
        contrasts = shown.evaluate(CONTRASTS)
        assert len(contrasts) > 20
        assert min(contrasts) >= 4.5  # WCAG AA


def test_long_lists_fold_and_unfold(browser: Browser, one: Path) -> None:
    with Visit(browser, one) as shown:
        last = shown.get_by_role("rowheader", name="layer3.5.conv1")
        assert not last.is_visible()
        shown.get_by_text("6 more groups").first.click()
        assert last.is_visible()
        recipe = shown.locator("pre")
        assert not recipe.is_visible()
        shown.get_by_text("Recipe", exact=True).click()
        assert "macs: 0.5" in recipe.inner_text()


def test_runs_are_reached_from_the_table(browser: Browser, tmp_path: Path) -> None:
    path = write_page(tmp_path / "report.html", page(PAGES["several"]))
    with Visit(browser, path) as shown:
        shown.locator("table.runs a").nth(1).click()
        assert shown.evaluate("location.hash") == "#run-2"


def test_print_shows_everything_dark_on_white(browser: Browser, path: Path) -> None:
    with Visit(browser, path, width=700, dark=True) as shown:
        shown.emulate_media(media="print")
        assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert min(shown.evaluate(CONTRASTS)) >= 4.5
        assert shown.locator("pre").last.is_visible()  # folded on the screen
        assert shown.evaluate("document.documentElement.scrollWidth") <= 700
        assert shown.pdf(format="A4").startswith(b"%PDF")
