"""Schemathesis finds no 5xx and no answer in either app that the OpenAPI document does not announce.

`SCHEMATHESIS_CASES=2000 python -m pytest tests/integration/test_apps_schema.py` is the full run; its seed is random,
and printed where something is found (`SCHEMATHESIS_SEED` repeats it).
"""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import pytest

from lab.environment import PROJECT
from lab.stacks.servers import MailSink, Postgres, Redis, free_port
from lab.stacks.supervisor import Supervisor
from tests.apps import NAMES, Name, running
from tests.support import until

OPERATIONS = 12
CASES = int(os.environ.get("SCHEMATHESIS_CASES", "150"))
SEED = os.environ.get("SCHEMATHESIS_SEED", None if CASES > 150 else "1")
DATABASE = 9  # of the session's Redis


def schemathesis(url: str, folder: Path, options: Sequence[str]) -> tuple[int, int, str]:
    """Run Schemathesis with every check; return its exit status, the number of its cases, and its report."""
    config = PROJECT / "tests" / "contract" / "schemathesis.toml"
    command = [
        sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{url}/openapi.json",
        "--checks", "all", "--phases", "coverage,fuzzing", "--generation-database", "none", "--no-color",
        "--warnings", "off", *options,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(PROJECT)}, capture_output=True)
    report = done.stdout.decode() + done.stderr.decode()
    cases = re.search(r"(\d+) generated", report)
    return done.returncode, int(cases[1]) if cases else 0, report


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_announced_and_none_is_a_server_error(
    name: Name, supervisor: Supervisor, postgres: Postgres, redis_server: Redis, mail_sink: MailSink, tmp_path: Path
) -> None:
    env = {
        "DATABASE_URL": postgres.create_database(f"schema_{uuid4().hex}"),
        "REDIS_URL": redis_server.url.replace("/0", f"/{DATABASE}"),
    }
    options = ["--max-examples", str(-(-CASES // OPERATIONS)), *(["--seed", SEED] if SEED else [])]
    with running(name, tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 40), (app.health(), app.log())
        status, cases, report = schemathesis(app.url, tmp_path, options)
    print(f"{name}: {cases} cases")
    assert (status, cases >= CASES) == (0, True), report


def test_an_answer_that_is_not_announced_is_found(supervisor: Supervisor, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "tests.contract.wrong:app", "--port", str(port)]
    child = supervisor.start("wrong", command, {}, cwd=PROJECT, log=tmp_path / "wrong.log")
    status, _, report = schemathesis(
        f"http://127.0.0.1:{port}", tmp_path, ["--max-examples", "3", "--wait-for-schema", "20"]
    )
    supervisor.stop(child.name, 5)
    assert (status, "Undocumented status code" in report, "Server error" in report) == (1, True, True), report
