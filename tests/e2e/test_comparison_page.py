"""The page "Comparison" in a real browser, in Locust's real web UI, with the lab's real control API behind it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import psutil
import pytest
from playwright.sync_api import Browser, Error, Page, Request, expect

from lab.contenders import load_contenders
from lab.control import Control, ControlServer
from lab.environment import PROJECT, available_cpus, place
from lab.rundir import RunDir
from lab.stacks.local import LocalStack, Servers
from lab.stacks.servers import free_port
from tests.support import until

pytestmark = pytest.mark.e2e
KNOWN = load_contenders(PROJECT / "contenders.toml")
SERIES = ["p50_ms", "p95_ms", "p99_ms", "service_p95_ms", "lateness_p99_ms", "bystander_p95_ms"]
RATES = ["acknowledged_per_s", "failed_per_s", "unsent_per_s"]
TIMES = [*SERIES, "service_p50_ms", "bystander_p50_ms"]
OWN = "comparison_locustfile.py"
COUNTS = ["requests", "acknowledged", "failed", "unsent"]


def snapshot(state: str = "running", seconds: int = 60, **changes: Any) -> dict[str, Any]:
    """Return what the live figures say of a load of two contenders."""

    def contender(factor: float) -> dict[str, Any]:
        figures = dict.fromkeys(TIMES, 10.0 * factor) | dict.fromkeys(COUNTS, 20 * seconds) if seconds else (
            dict.fromkeys(TIMES, None) | dict.fromkeys(COUNTS, 0)
        )  # fmt: skip
        wave = [factor * (8 + (second * 7) % 5) for second in range(seconds)]
        series = {"t_s": list(range(seconds))} | dict.fromkeys(SERIES, wave) | dict.fromkeys(RATES, wave)
        return {"url": "http://127.0.0.1:1", "total": figures, "recent": figures, "series": series}

    contenders = {"inline": contender(1), "celery": contender(1.5)}
    ready: dict[str, Any] = {"state": state, "scenario": "mixed", "rate": 20.0, "elapsed_s": float(seconds)}
    return ready | {"workers": {}, "contenders": contenders} | changes


class WebUi:
    """A Locust with the page, and the file that says what it shows."""

    def __init__(
        self, folder: Path, *options: str, locustfile: str = OWN, answers_at: str = "/", **environment: str
    ) -> None:
        self.file, self.log = folder / "snapshot.json", folder / "locust.log"
        self.show(snapshot("ready", 0))
        self._answers_at = answers_at
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        file = str(PROJECT / "tests" / "e2e" / locustfile)
        command = [sys.executable, "-m", "locust", "-f", file, "--web-host", "127.0.0.1", "--web-port", str(port)]
        settings = os.environ | {"PYTHONPATH": str(PROJECT), "SNAPSHOT": str(self.file)} | environment
        with self.log.open("w") as log:
            self.process = subprocess.Popen([*command, *options], env=settings, stdout=log, stderr=log)
        assert until(self._answers, within_s=30), self.log.read_text()

    def show(self, what: dict[str, Any]) -> None:
        """Say what the page shows from now on."""
        draft = self.file.with_suffix(".draft")
        draft.write_text(json.dumps(what))
        draft.replace(self.file)

    def end(self) -> None:
        """End Locust."""
        self.process.terminate()
        self.process.wait(10)

    def _answers(self) -> bool:
        try:
            with urlopen(self.url + self._answers_at) as answer:
                return bool(answer.status == 200)
        except URLError:
            return False


Start = Callable[..., WebUi]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a Locust with these options and this environment; it ends with the test."""
    with ExitStack() as ending:

        def started(*options: str, **environment: str) -> WebUi:
            web_ui = WebUi(tmp_path, *options, **environment)
            ending.callback(web_ui.end)
            return web_ui

        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page on which no script may fail and nothing may come from elsewhere."""
    with browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light") as context:
        page = context.new_page()
        errors: list[str] = []

        def note_error(error: Error) -> None:
            errors.append(str(error))

        def note_if_foreign(asked: Request) -> None:
            if not asked.url.startswith(("http://127.0.0.1:", "data:")):
                errors.append(asked.url)

        page.on("pageerror", note_error)
        page.on("request", note_if_foreign)
        yield page
        assert not errors


def figure(page: Page, name: str) -> str:
    """Return a figure as the page shows it."""
    return page.locator(f'[data-figure="{name}"]').inner_text()


def test_the_page_is_reached_from_locusts_own_and_says_that_it_is_no_verdict(start: Start, page: Page) -> None:
    page.goto(start().url)
    page.get_by_role("link", name="Comparison").click()
    expect(page.get_by_role("status")).to_contain_text("Ready")
    expect(page.get_by_text("Exploratory, no verdict")).to_be_visible()
    expect(page.get_by_text("nothing yet")).to_have_count(6)
    assert figure(page, "inline/total/p95_ms") == "–"


def test_it_fills_and_says_what_failed_and_when_it_has_stopped(start: Start, page: Page) -> None:
    web_ui = start()
    page.goto(f"{web_ui.url}/comparison")
    seen = snapshot(workers={"w1": {"state": "running", "samples": 7}, "w2": {"state": "missing", "samples": 5}})
    seen["contenders"]["celery"]["recent"] = seen["contenders"]["celery"]["recent"] | {"p99_ms": "inf"}
    seen["contenders"]["celery"]["total"] = seen["contenders"]["celery"]["total"] | {"sent_per_s": 14.9}
    web_ui.show(seen)
    expect(page.get_by_role("status")).to_have_text("Running mixed at 20/s, 60 s")
    expect(page.get_by_role("row", name="Sent per s, of 20 asked for")).to_be_visible()
    assert figure(page, "celery/total/sent_per_s") == "14.9"
    assert figure(page, "celery/recent/p99_ms") == "failed"
    assert figure(page, "celery/total/p99_ms") == "15.0"
    assert figure(page, "inline/total/requests") == "1,200"
    assert page.locator("polyline").count() == 2 * 9
    expect(page.get_by_role("row", name="w2")).to_contain_text("missing")
    web_ui.show(seen | {"state": "ending"})
    expect(page.get_by_role("status")).to_have_text("Ending mixed: another load can be started in a moment")
    web_ui.show(seen | {"state": "stopped"})
    expect(page.get_by_role("status")).to_have_text("Stopped after 60 s of mixed")
    expect(page.get_by_role("button")).to_have_count(0)  # no lab is behind it


def test_it_shows_the_tasks_of_whom_a_journal_can_be_read_without_a_lab(start: Start, page: Page) -> None:
    """A figure that is not known is a dash; where nothing is known of anybody's tasks there are no such rows."""
    web_ui, shown = start(), snapshot()
    web_ui.show(shown)
    page.goto(f"{web_ui.url}/comparison")
    expect(page.get_by_text("Acknowledged", exact=True)).to_be_visible()
    assert page.get_by_text("Tasks done", exact=True).count() == 0
    lines = page.locator("polyline").count()
    told = {"acknowledged": 1200, "not_started": 30, "done": 1000, "not_done": 200}
    shown["contenders"]["celery"]["tasks"] = told | {"succeeded_in": [16] * 60, "last_success_s": 59.5}
    web_ui.show(shown)
    texts = {"acknowledged": "1,200", "not_started": "30", "done": "1,000", "not_done": "200", "goodput_per_s": "16"}
    for key, text in texts.items():
        expect(page.locator(f"[data-figure='celery/tasks/{key}']")).to_have_text(text)
        expect(page.locator(f"[data-figure='inline/tasks/{key}']")).to_have_text("–")
    assert page.get_by_text("Messages in the queue").count() == 0
    assert page.locator("polyline").count() == lines + 1, "the goodput of the one of whose tasks something is known"


def test_two_pages_show_the_same_and_both_say_when_the_connection_is_lost(
    start: Start, browser: Browser, page: Page
) -> None:
    web_ui = start()
    with browser.new_context() as context:
        pages = [page, context.new_page()]
        web_ui.show(snapshot())
        for one in pages:
            one.goto(f"{web_ui.url}/comparison")
            expect(one.locator('[data-figure="inline/total/requests"]')).to_have_text("1,200")
        assert pages[0].locator("#figures").inner_text() == pages[1].locator("#figures").inner_text()
        web_ui.end()
        for one in pages:
            expect(one.get_by_role("status")).to_contain_text("Connection lost")
            assert figure(one, "inline/total/requests") == "1,200"


def test_it_is_behind_the_same_login(start: Start, page: Page) -> None:
    web_ui = start("--web-login")
    for path in ("comparison", "comparison/state", "comparison/comparison.js"):
        page.goto(f"{web_ui.url}/{path}")
        assert page.url.startswith(f"{web_ui.url}/login")
    answer = page.request.post(f"{web_ui.url}/comparison/fault", data={"contender": "x", "fault": "y"}, max_redirects=0)
    assert answer.status == 302


def test_the_labs_load_and_its_page_are_behind_a_login_that_a_locustfile_sets_up(start: Start, page: Page) -> None:
    """As docs/web-ui.md says it is done."""
    web_ui = start("--web-login", locustfile="login_locustfile.py", WEB_SECRET_KEY="any", WEB_PASSWORD="right")
    for password, leads_to in [("wrong", "/login"), ("right", "/comparison")]:
        page.goto(web_ui.url)
        page.get_by_label("Username").fill("anybody")
        page.get_by_label("Password").fill(password)
        with page.expect_response("**/let-me-in"):
            page.get_by_role("button", name="Login").click()
        page.wait_for_load_state()
        page.goto(f"{web_ui.url}/comparison")
        assert urlsplit(page.url).path == leads_to
    expect(page.get_by_role("status")).to_contain_text("Ready")


def test_it_is_found_below_a_base_path(start: Start, page: Page) -> None:
    web_ui = start("--web-base-path", "/load", answers_at="/load/")
    page.goto(f"{web_ui.url}/load/")
    page.get_by_role("link", name="Comparison").click()
    expect(page.get_by_role("status")).to_contain_text("Ready")
    page.get_by_role("link", name="Locust").click()
    expect(page.get_by_role("button", name="Start")).to_be_visible()


def test_it_follows_the_theme_chosen_in_locust(start: Start, page: Page) -> None:
    web_ui = start()
    page.goto(f"{web_ui.url}/comparison")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(ground) == "rgb(255, 255, 255)"
    page.evaluate("localStorage.theme = 'dark'")
    page.reload()
    assert page.evaluate(ground) == "rgb(18, 18, 18)"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_juts_out(start: Start, page: Page, width: int) -> None:
    web_ui = start()
    web_ui.show(snapshot(seconds=600))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{web_ui.url}/comparison")
    expect(page.locator("polyline").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    last = page.locator('[data-figure="celery/total/p95_ms"]').bounding_box()
    assert last is not None
    assert last["x"] + last["width"] <= width, "the second contender is out of sight"
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{width}-light.png", full_page=True)
        page.evaluate("localStorage.theme = 'dark'")
        page.reload()
        expect(page.locator("polyline").first).to_be_visible()
        page.screenshot(path=f"{folder}/{width}-dark.png", full_page=True)


def unsaved(*_: object) -> RunDir:
    """Save nothing: the load of this test is none."""
    raise AssertionError


def test_a_fault_is_done_from_the_page_and_marked(start: Start, page: Page, shared: Servers, tmp_path: Path) -> None:
    """The worker is really killed; without a load it cannot be asked for; the browser never gets the token."""
    samples = tmp_path / "samples.jsonl"
    with LocalStack(shared.supervisor, KNOWN["celery"], shared, tmp_path / "celery", place(available_cpus())) as celery:
        control = Control([celery], samples, unsaved)
        with ControlServer(control) as server:
            web_ui = start(**server.environment)
            web_ui.show(snapshot())
            page.goto(f"{web_ui.url}/comparison")
            button = page.get_by_role("button", name="worker-kill of celery")
            expect(button).to_be_disabled()
            refused = page.request.post(
                f"{web_ui.url}/comparison/fault", data={"contender": "celery", "fault": "worker-kill"}
            )
            assert refused.status == 409
            samples.write_text(
                json.dumps(
                    {"contenders": {"celery": celery.base_url}, "start_ns": time.monotonic_ns() - 20_000_000_000}
                )
                + "\n"
            )
            before = [psutil.Process(pid) for pid in celery.instances(celery.workers).values()]
            button.click()
            expect(page.locator('[data-fault="worker-kill"]')).to_have_count(6)
            expect(page.get_by_role("listitem")).to_contain_text("healed after", timeout=40_000)
            assert not any(process.is_running() for process in before)
            told = page.content() + page.request.get(f"{web_ui.url}/comparison/state").text()
            assert server.environment["LAB_CONTROL_TOKEN"] not in told
        control.wait(5)
