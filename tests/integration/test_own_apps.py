"""One's own apps: described in a file, started or running already, with a journal or without."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from lab.environment import PROJECT
from lab.rundir import RunDir
from lab.stacks.servers import MailSink, Postgres, free_port
from lab.stacks.supervisor import Supervisor
from tests import apps
from tests.support import until

EXAMPLE = PROJECT / "examples" / "event_loops"


def run_lab(out: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `lab compare` without faults for a short time."""
    command = [sys.executable, "-m", "lab", "compare", "--out", out, "--rounds", "1", "--duration", "2", *arguments]
    return subprocess.run([str(part) for part in command], cwd=PROJECT, capture_output=True, text=True, timeout=120)


def summary_of(out: Path) -> dict[str, Any]:
    """Return the summary of the only run in a folder."""
    (run,) = out.iterdir()
    summary: dict[str, Any] = json.loads((run / "summary.json").read_text())
    return summary


def test_the_example_compares_something_else(tmp_path: Path) -> None:
    """Both contenders answer every kind of request; nothing is said of tasks, and that is said."""
    done = run_lab(
        tmp_path, "--contenders", EXAMPLE / "contenders.toml", "--scenarios", EXAMPLE / "scenarios", "--rate", "40"
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
    assert "Of uvloop and asyncio there is no journal" in " ".join(done.stdout.split())
    summary = summary_of(tmp_path)
    blocks = [block for block in summary["blocks"] if block["valid"]]
    routes = [row for row in summary["routes"] if row["contender"] in {block["contender"] for block in blocks}]
    for row in routes:
        assert row["acknowledged"] == row["requests"] > 0
        assert row["goodput_per_s"]["median"] is None
    assert {row["route"] for row in routes} == ({"all", "GET /items", "POST /orders"} if blocks else set())
    assert not [comparison for comparison in summary["comparisons"] if comparison["metric"].startswith("done")]
    assert summary["bystanders"] == []


def test_an_own_app_is_not_measured_in_containers(tmp_path: Path) -> None:
    """It is not in the image: that is said at once, and no run directory is made."""
    done = run_lab(tmp_path / "runs", "--contenders", EXAMPLE / "contenders.toml", "--stack", "compose")
    assert done.returncode == 2
    sentence = "lab: 'uvloop' is not in the image: --stack compose runs the lab's own contenders."
    assert done.stderr.splitlines() == [sentence]
    assert not (tmp_path / "runs").exists()


def describe(path: Path, **contenders: dict[str, str]) -> Path:
    """Write a file of contenders that run already."""
    tables = [
        f'[{name}]\ntitle = "T"\nslots = "?"\n' + "".join(f'{key} = "{value}"\n' for key, value in keys.items())
        for name, keys in contenders.items()
    ]
    path.write_text("\n".join(tables))
    return path


def test_what_runs_already_is_followed_where_its_journal_can_be_read(
    supervisor: Supervisor, mail_sink: MailSink, postgres: Postgres, tmp_path: Path
) -> None:
    """The same app, once with its data and once without; what it did before does not count, and it runs on."""
    env = {"DATABASE_URL": postgres.create_database("own_apps")}
    with apps.running("inline", tmp_path, supervisor, env, mail_sink) as app:
        assert until(app.is_ready, 30), app.log()
        before = app.client.post("/action", json={"message": "before"})
        app.settle(before.json()["task_ids"])
        file = describe(
            tmp_path / "contenders.toml", seen={"url": app.url, "data": str(app.data_dir)}, unseen={"url": app.url}
        )
        out = tmp_path / "runs"
        done = run_lab(out, "--stack", "running", "--contenders", file, "--rate", "20")
        assert done.returncode in (0, 3), done.stdout + done.stderr
        assert app.is_ready()
    said = " ".join(done.stdout.split())
    assert "The lab did not start the contenders" in said
    assert "Of unseen there is no journal" in said
    (run,) = out.iterdir()
    blocks = {block.contender: block for block in RunDir(run).read().blocks}
    summary = summary_of(out)
    shares = {(share["contender"], share["fate"]): share["count"] for share in summary["shares"]}
    if blocks["seen"].valid:
        assert set(shares) == {("seen", "done")}
        assert shares["seen", "done"] > 20
    tasks = str(run / blocks["seen"].folder / "tasks.parquet")
    ids = {row[0] for row in duckdb.execute("SELECT task_id FROM read_parquet($tasks)", {"tasks": tasks}).fetchall()}
    assert len(ids) > 20
    assert not ids & set(before.json()["task_ids"])


@pytest.mark.parametrize(
    ("keys", "arguments", "says"),
    [
        (
            {"url": "http://192.0.2.1:80"},
            [],
            "'mine' is not on this machine; if you may load it, say --i-may-load 192.0.2.1.",
        ),
        ({"url": "http://127.0.0.1:1"}, ["--fault", "api-kill"], "Faults cannot be done to 'mine', which runs already"),
        ({"api": "serve {port}"}, [], "contenders.toml: 'mine.api'"),
    ],
)
def test_what_cannot_be_asked_for_is_bad_usage(
    tmp_path: Path, keys: dict[str, str], arguments: list[str], says: str
) -> None:
    """One sentence, exit status 2, no run directory."""
    file = describe(tmp_path / "contenders.toml", mine=keys)
    out = tmp_path / "runs"
    out.mkdir()
    done = run_lab(out, "--stack", "running", "--contenders", file, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(out.iterdir())


def test_an_app_that_does_not_answer_is_named(tmp_path: Path) -> None:
    """The block fails, and says of whom."""
    file = describe(tmp_path / "contenders.toml", mine={"url": f"http://127.0.0.1:{free_port()}"})
    done = run_lab(tmp_path / "runs", "--stack", "running", "--contenders", file)
    assert done.returncode == 1
    assert "cannot be measured: " in " ".join(done.stdout.split())
    assert "Traceback" not in done.stderr
