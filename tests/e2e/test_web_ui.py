"""The Locust web UI as `lab up` starts it: a person chooses a scenario, starts it, and sees requests answered."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, expect

from lab.environment import PROJECT
from lab.stacks.servers import free_port
from tests.support import alive, until

pytestmark = pytest.mark.e2e


@pytest.fixture
def web_ui(tmp_path: Path) -> Iterator[str]:
    """Run `lab up` and return where its web UI is; Ctrl-C at the end, after which nothing may be left."""
    port, output = free_port(), tmp_path / "up.log"
    command = [sys.executable, "-m", "lab", "up", "--contender", "inline", "--web-port", str(port)]
    with output.open("w") as log:
        lab = subprocess.Popen([*command, "--out", str(tmp_path)], cwd=PROJECT, stdout=log, stderr=log)
    try:
        assert until(lambda: f":{port}" in output.read_text() or lab.poll() is not None, within_s=60)
        assert lab.poll() is None, output.read_text()
        processes = psutil.Process(lab.pid).children(recursive=True)
        yield f"http://127.0.0.1:{port}"
        lab.send_signal(signal.SIGINT)
        assert lab.wait(30) == 0, output.read_text()
        assert not alive(processes)
    finally:
        lab.kill()
        lab.wait()


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
