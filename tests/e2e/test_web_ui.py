"""The Locust web UI as `lab up` starts it: a person chooses a scenario, starts it, and sees requests answered."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.labup import lab_up

pytestmark = pytest.mark.e2e


@pytest.fixture
def web_ui(tmp_path: Path) -> Iterator[str]:
    """Run `lab up` with one contender and return where its web UI is."""
    with lab_up(tmp_path, "inline") as url:
        yield url


def test_a_load_is_started_from_the_form_and_seen_to_be_answered(browser: Browser, web_ui: str) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(web_ui)
        page.get_by_label("Number of users").fill("20")
        page.get_by_label("Ramp up").fill("20")
        page.get_by_role("button", name=re.compile("start", re.IGNORECASE)).click()
        expect(page.get_by_role("cell", name="/action").first).to_be_visible(timeout=20_000)
        stop = page.get_by_role("button", name=re.compile("^stop", re.IGNORECASE))
        stop.click()
        answers = page.request.get(f"{web_ui}/stats/requests").json()
    total = next(row for row in answers["stats"] if row["name"] == "Aggregated")
    assert total["num_requests"] > 0
    assert total["num_failures"] == 0
