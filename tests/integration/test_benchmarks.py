"""The benchmarks at a tiny size: they run, and count what they say; how fast is not asked."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from benchmarks import generator, instrument_cost, pipeline, warm_shutdown
from benchmarks.plain_worker import app, work
from lab.environment import PROJECT
from lab.stacks.servers import Redis


@pytest.mark.parametrize(("options", "blocks"), [([], "4"), (["--one-block"], "1")])
def test_the_pipeline_settles_all_that_was_made_up(
    options: list[str], blocks: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Half as many tasks again as requests, and none of them unaccounted for."""
    pipeline.main(["--requests", "3200", *options])
    _, row = capfd.readouterr().out.splitlines()
    assert row.split()[:3] == ["3,200", "4,800", blocks]
    assert re.search(r"\d MB$", row)


def test_the_generator_prints_each_attempt_and_what_it_found(capfd: pytest.CaptureFixture[str]) -> None:
    """At a rate that any machine can send, in time or not."""
    generator.main(["--processes", "1", "--lowest", "100", "--highest", "100", "--seconds", "0.3"])
    placed, head, first, *_, found = capfd.readouterr().out.splitlines()
    assert placed.startswith("generator on CPUs")
    assert head.split()[:3] == ["processes", "rate", "/s"]
    assert first.split()[:2] == ["1", "100"]
    assert first.split()[-1] == "0"
    assert found in ("processes: 1; 100 requests/s in time, the highest rate tried",
                     "processes: 1; late or failed at every rate tried")  # fmt: skip


def test_what_the_instrument_costs_is_tried_on_celery_too(capfd: pytest.CaptureFixture[str]) -> None:
    """One round, so no ratio; every task that was acknowledged is done in either leg."""
    instrument_cost.main(["celery", "--rounds", "1", "--seconds", "1"])
    placed, head, *rows = capfd.readouterr().out.splitlines()
    assert placed.startswith("contender on CPUs")
    assert head.split() == ["contender", "figure", "with", "without", "ratio"]
    assert [row.split()[:2] for row in rows] == [
        ["celery", "throughput_per_s"], ["celery", "response_p50_ms"], ["celery", "response_p95_ms"],
    ]  # fmt: skip
    assert all(float(figure.replace(",", "")) > 0 for row in rows for figure in row.split()[2:])


def test_a_contender_that_is_not_there_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        instrument_cost.main(["celeri"])
    assert "no contender is named celeri" in capfd.readouterr().err


def test_a_sleeper_is_timed_with_its_cpu_kept_awake_and_without(capfd: pytest.CaptureFixture[str]) -> None:
    """As a process of its own, whose rank and CPU it changes."""
    subprocess.run(
        [sys.executable, "-m", "benchmarks.wake_up", "--turns", "2", "--seconds", "0.1"], cwd=PROJECT, check=True
    )
    placed, _, *rows = capfd.readouterr().out.splitlines()
    assert placed.startswith("in a run it is ")
    assert [row[:10] for row in rows] == ["left alone", "kept awake"] * 2
    for row in rows:
        wakes, *late_ms = (float(figure) for figure in row[11:].split())
        assert 0 < wakes <= 50
        assert 0 <= late_ms[0] <= late_ms[1] <= late_ms[2] <= late_ms[3]


def test_a_warm_shutdown_is_timed_try_by_try(capfd: pytest.CaptureFixture[str]) -> None:
    """Each worker ends by itself, soon or late."""
    cpus = os.sched_getaffinity(0)
    try:
        warm_shutdown.main(["--tries", "2"])
    finally:
        os.sched_setaffinity(0, cpus)
    *rows, found = capfd.readouterr().out.splitlines()
    tries = [re.fullmatch(r" *([\d.]+) s, (\d+) to be done again", row) for row in rows]
    seen = [(float(one[1]), int(one[2])) for one in tries if one]
    assert len(seen) == len(rows) == 2
    long, short = ([again for took_s, again in seen if (took_s > 5) is is_long] for is_long in (True, False))
    assert found == (
        f"{len(long)} of 2 took longer than 5 s; to be done again: {sum(long)} of these, {sum(short)} of the others"
    )
    assert all(again == (took_s > 30) for took_s, again in seen if not 5 < took_s <= 30)  # between, who knows


def test_what_is_done_and_still_with_the_broker_is_counted(make_redis: Callable[[], Redis], tmp_path: Path) -> None:
    """Of three tasks one is taken; of the others one is done, as is the taken one, and one that is not there."""
    broker = make_redis()
    with app.connection_for_write(broker.url) as connection:
        sent = [work.s(str(tmp_path), False).apply_async(connection=connection).id for _ in range(3)]
    (tmp_path / "done").write_text(f"{sent[0]}\n{sent[1]}\n{uuid4()}\n")
    with broker.connect() as client:
        message = client.rpop("celery")
        assert isinstance(message, bytes)
        assert json.loads(message)["headers"]["id"] == sent[0]
        client.hset("unacked", "its tag", json.dumps([json.loads(message), "", "celery"]))
        assert warm_shutdown.count_to_be_done_again(client, tmp_path) == 2
