"""The comparison as a person makes it: `lab up`, both contenders, a killed worker, a saved run and its report."""

import json
import math
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.e2e.labup import lab_up
from tests.support import until

pytestmark = pytest.mark.e2e
NAMES = ["inline", "celery"]
START = re.compile("start", re.IGNORECASE)
RATE = "20"  # of each: what a slow machine of two CPUs carries for both, so that no request of inline times out


@pytest.fixture
def web_ui(tmp_path: Path) -> Iterator[str]:
    """Run `lab up` with both contenders and return where its web UI is."""
    with lab_up(tmp_path, *NAMES) as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()


def start(page: Page, url: str, contender: str, in_flight: str = "1000") -> None:
    """Fill in the start form, and press its button."""
    page.goto(url)
    page.get_by_label("Number of users").fill(RATE)
    page.get_by_label("Ramp up").fill(RATE)
    page.get_by_text("Custom parameters").click()
    page.locator('select[name="contender"]').select_option(contender)
    page.locator('input[name="inFlight"]').fill(in_flight)
    page.get_by_role("button", name=START).click()


def figure(page: Page, name: str) -> Locator:
    """Return a figure of the page."""
    return page.locator(f'[data-figure="{name}"]')


def number(page: Page, name: str) -> float:
    """Return a figure as a number; what falls on a failed request is infinite, as on a machine that is too busy."""
    text = figure(page, name).inner_text().replace(",", "")
    return math.inf if text == "failed" else float(text)


def test_both_are_loaded_hurt_seen_and_saved(page: Page, web_ui: str, tmp_path: Path) -> None:
    """What the page shows at the end is what the saved run says."""
    start(page, web_ui, "both")
    page.get_by_role("link", name="Comparison").click()
    status, save = page.get_by_role("status"), page.get_by_role("button", name="Save")
    expect(status).to_contain_text(f"Running mixed at {RATE}/s")
    for name in NAMES:
        expect(figure(page, f"{name}/recent/acknowledged")).to_have_text(re.compile(r"^[\d,]{3,}$"), timeout=30_000)
    expect(save).to_be_disabled()
    refused = page.request.post(f"{web_ui}/comparison/save", data={})
    assert (refused.status, refused.json()["message"]) == (409, "The load is running: stop it before it is saved.")

    page.get_by_role("button", name="worker-kill of celery").click()
    expect(page.locator('[data-fault="worker-kill"]')).to_have_count(6)
    expect(page.get_by_role("listitem").first).to_contain_text("healed after", timeout=40_000)
    expect(figure(page, "celery/total/acknowledged")).to_have_text(re.compile(r"^\d,\d{3}$"), timeout=60_000)
    take_pictures(page)
    page.get_by_role("link", name="Locust").click()
    page.get_by_role("button", name=re.compile("^stop", re.IGNORECASE)).click()
    page.get_by_role("link", name="Comparison").click()
    expect(status).to_contain_text("Stopped", timeout=20_000)
    for name in NAMES:
        expect(figure(page, f"{name}/tasks/acknowledged")).not_to_have_text("0")
        assert until(partial(no_more_ends, page, name), within_s=120)
    save.click()
    report = page.get_by_role("link", name=re.compile("-exploratory$"))
    expect(report).to_be_visible(timeout=60_000)
    run = tmp_path / report.inner_text()
    summary = json.loads((run / "summary.json").read_text())
    for name in NAMES:
        agrees(page, name, summary)
    faults = [json.loads((block / "faults.json").read_text()) for block in sorted((run / "blocks").iterdir())]
    assert [[fault["fault"] for fault in one] for one in faults] == [[], ["worker-kill"]]
    assert {comparison["verdict"] for comparison in summary["comparisons"]} == {None}
    assert not [why for block in summary["blocks"] for why in block["why"] if "differ" in why]
    inline = {share["fate"] for share in summary["shares"] if share["contender"] == "inline"}
    assert inline == {"done"}, "a task of the one was taken for the other's"
    with page.context.expect_page() as opened:
        report.click()
    expect(opened.value.get_by_text("This run is exploratory")).to_be_visible()


def no_more_ends(page: Page, name: str) -> bool:
    """Return whether no task ends for three seconds: what is done after the save is on the page and not in the run."""
    done = figure(page, f"{name}/tasks/done")
    before = done.inner_text()
    page.wait_for_timeout(3_000)
    return done.inner_text() == before


def agrees(page: Page, name: str, summary: dict[str, Any]) -> None:
    """Compare the page's figures of the whole run with those of the saved run's summary."""
    row = next(r for r in summary["routes"] if r["contender"] == name and r["route"] == "all")
    assert number(page, f"{name}/total/requests") == row["requests"]
    assert number(page, f"{name}/total/acknowledged") == row["acknowledged"]
    assert number(page, f"{name}/total/unsent") == row["unsent"]
    assert number(page, f"{name}/total/failed") == row["refused"] + row["indeterminate"]
    figures = {"p50_ms": "response_p50_ms", "p95_ms": "response_p95_ms", "p99_ms": "response_p99_ms"}
    figures |= {"service_p50_ms": "service_p50_ms", "service_p95_ms": "service_p95_ms"}
    figures |= {"lateness_p99_ms": "lateness_p99_ms"}
    for shown, saved in figures.items():
        assert number(page, f"{name}/total/{shown}") == pytest.approx(float(row[saved]["median"]), rel=0.02, abs=0.006)
    routes = [r for r in summary["bystanders"] if r["contender"] == name]
    for part in ("p50_ms", "p95_ms"):  # the page has both routes in one, whose percentile lies between theirs
        both = [float(route[f"response_{part}"]["median"]) for route in routes]
        assert min(both) * 0.98 <= number(page, f"{name}/total/bystander_{part}") <= max(both) * 1.02
    shares = [s for s in summary["shares"] if s["contender"] == name and s["request_outcome"] == "acknowledged"]
    assert number(page, f"{name}/tasks/acknowledged") == sum(share["count"] for share in shares)
    ended = sum(share["count"] for share in shares if share["fate"] not in ("pending", "stranded", "lost"))
    expect(figure(page, f"{name}/tasks/done")).to_have_text(f"{ended:,}")
    goodput_per_s = row["goodput_per_s"]["median"]
    assert number(page, f"{name}/tasks/goodput_per_s") == pytest.approx(goodput_per_s, rel=0.02)


def take_pictures(page: Page) -> None:
    """Keep pictures of the page where SCREENSHOTS names a folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        for theme in ("light", "dark"):
            page.evaluate(f"localStorage.theme = '{theme}'")
            page.reload()
            expect(page.locator("polyline").first).to_be_visible()
            for width in (390, 1280):
                page.set_viewport_size({"width": width, "height": 900})
                page.screenshot(path=f"{folder}/run-{width}-{theme}.png", full_page=True)


def test_wrong_values_are_refused_and_one_contender_can_be_loaded_alone(page: Page, web_ui: str) -> None:
    start(page, web_ui, "celery", in_flight="0")
    expect(page.get_by_text("--in-flight 0: Input should be greater than or equal to 1.")).to_be_visible()
    state = page.request.get(f"{web_ui}/comparison/state").json()
    assert state["load"]["state"] == "ready"
    refused = page.request.post(f"{web_ui}/comparison/save", data={})
    assert (refused.status, refused.json()["message"]) == (409, "There was no load yet: there is nothing to save.")
    start(page, web_ui, "celery")
    page.get_by_role("link", name="Comparison").click()
    expect(figure(page, "celery/total/acknowledged")).to_have_text(re.compile(r"^[1-9]"), timeout=20_000)
    assert figure(page, "inline/total/acknowledged").count() == 0
