"""The report in a real browser: whole without a network, and readable on a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from lab import report
from tests.runmaker import make_run

pytestmark = pytest.mark.e2e

WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def report_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run(tmp_path_factory.mktemp("run") / "r", {"inline": 1.0, "celery": 1.5, "celery-threads": 1.0})
    report.write(run)
    return run / "report.html"


@pytest.fixture(params=list(WIDTHS.values()), ids=list(WIDTHS))
def page(browser: Browser, report_page: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Open the report without a network, and fail on whatever it asks for or complains of."""
    with browser.new_context(offline=True, viewport={"width": request.param, "height": 900}) as context:
        page = context.new_page()
        complaints: list[str] = []
        asked_for: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda asked: asked_for.append(asked.url))
        page.goto(report_page.as_uri())
        yield page
        assert complaints == []
        assert asked_for == [report_page.as_uri()]


def test_the_page_says_who_was_faster_and_stays_within_its_width(page: Page) -> None:
    text = page.inner_text("body")
    assert "celery" in text
    assert "slower by" in text
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0


def test_dark_mode_is_really_dark(page: Page) -> None:
    def brightness() -> int:
        page.wait_for_timeout(0)
        return int(
            page.evaluate(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3)"
                ".reduce((sum, part) => sum + Number(part), 0)"
            )
        )

    page.emulate_media(color_scheme="light")
    light = brightness()
    page.emulate_media(color_scheme="dark")
    assert brightness() < light - 300
