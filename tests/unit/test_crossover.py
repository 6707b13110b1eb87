"""The crossover map: a verdict in every cell, the same in every output, and nothing said that no verdict says."""

import math
import re
import shutil
from io import StringIO
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from lab import report, stats
from lab.report import crossover, terminal
from lab.report.crossover import Map, maps
from lab.report.summary import Comparison, Summary
from lab.rundir import RunDir, RunRecord, ScenarioRecord
from tests.blockmaker import MS
from tests.runmaker import empty_run, finish, loaded_block, plan

CONTENDERS = ["inline", "celery"]
RATES = [2, 8, 32]
# How many times as long as `inline` the other one takes at each rate; at the last one over 5 % are refused and lost.
SLOWNESS = {2: 0.25, 8: 1.0, 32: 1.0}


def cell(rate: float, seconds: float = 0.5) -> ScenarioRecord:
    """Return one cell of a grid."""
    name = f"map-io-{seconds:g}s-{rate:g}"
    load: dict[str, Any] = {"arrivals": "poisson", "warmup_s": 1, "duration_s": 5}
    return ScenarioRecord(
        name=name, users="probe", rate=rate, probe_work="io", probe_seconds=seconds, grid="map", **load
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a finished run of three cells, and return its directory."""
    random, path = Random(5), tmp_path_factory.mktemp("crossover")
    directory, run = RunDir(path), empty_run(plan(CONTENDERS, 5, scenarios=[cell(rate) for rate in RATES]))
    for record in run.blocks:
        rate = int(record.scenario.rpartition("-")[2])
        fails = record.contender == "celery" and rate == 32
        slowness = (SLOWNESS[rate] if record.contender == "celery" else 1.0) * random.lognormvariate(0, 0.02)
        block = loaded_block(record.contender, random, slowness, losses=6 if fails else 0)
        for _ in range(4 if fails else 0):
            block.request("POST /action", "refused")
        for ping in (row for row in block.requests if row["stream"] == "bystander"):
            ping["ended_ns"] = ping["sent_ns"] + int(2 * MS * slowness * random.lognormvariate(0, 0.1))
        finish(directory, record, block)
    directory.write(run)
    return path


@pytest.fixture(scope="module")
def summary(run: Path) -> Summary:
    return report.write(run)


def answers(one: Map) -> list[tuple[str, str]]:
    """Return headline and detail of each cell, by rate."""
    ((_, ((_, squares),)),) = one.panels().items()
    return [(square.headline, square.detail) for square in squares]


def test_each_question_has_a_map_with_a_verdict_in_every_cell(summary: Summary) -> None:
    """Celery wins the first cell, the second shows no difference, in the third its figures are infinite."""
    found = maps(summary)
    assert [one.metric for one in found] == ["response_p95_ms", "done_p95_ms", "bystander_p95_ms"]
    for one in found:
        (winner, by), (alike, ratio), (last, why) = answers(one)
        assert (winner, alike) == ("celery", "not significant")
        assert re.fullmatch(r"×[34]\.\d\d \([234]\.\d\d–[345]\.\d\d\)", by), by
        assert re.fullmatch(r"ratio [01]\.\d+ \(0\.\d+–1\.\d+\)", ratio), ratio
        if one.metric != "bystander_p95_ms":
            assert (last, why) == ("unknown", "celery infinite")
        else:
            assert last == "not significant", "the bystanders got their answers all the same"


def test_holms_correction_is_over_all_verdicts_those_on_bystanders_included(summary: Summary) -> None:
    """Seven of nine can have one."""
    judged = [c for c in summary.comparisons if c.p is not None]
    assert len(judged) == 7
    assert sum(c.metric == "bystander_p95_ms" for c in judged) == 3
    ratios = [stats.paired_ratio([ratio for ratio in c.ratios if ratio]) for c in judged]
    assert [c.p for c in judged] == stats.holm([ratio.p for ratio in ratios if ratio])


def test_of_two_bystanders_the_worse_off_counts(run: Path, summary: Summary) -> None:
    (first,) = [c for c in summary.comparisons if c.metric == "bystander_p95_ms" and c.scenario == "map-io-0.5s-2"]
    both = [b for b in summary.bystanders if (b.contender, b.scenario) == ("celery", "map-io-0.5s-2")]
    assert len(both) == 2
    assert first.other_figure is not None
    assert first.other_figure >= max(b.response_p95_ms.median or 0 for b in both)


def printed(summary: Summary) -> str:
    console = Console(file=StringIO(), width=80, force_terminal=False)
    terminal.show(summary, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_every_output_shows_the_maps_and_no_table_for_each_cell(run: Path, summary: Summary) -> None:
    page, text, shown = (run / "report.html").read_text(), (run / "report.md").read_text(), printed(summary)
    for output in (page, text, shown):
        assert "not significant" in output
        assert "celery infinite" in output
        assert "Nothing was measured" not in output
    assert page.count('<figure class="map">') == 3
    assert page.count('<td class="second" style="--strength: ') == 3
    assert page.count('<td class="unknown">') == 2
    assert "At a glance" not in page + text
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines()) <= 80
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_the_figures_of_each_cell_stand_beside_the_map(summary: Summary) -> None:
    table = crossover.cells(summary)
    assert [row[:2] for row in table.rows] == [[f"map-io-0.5s-{rate}", name] for rate in RATES for name in CONTENDERS]
    assert {len(row) for row in table.rows} == {len(table.head)}
    assert table.rows[-1][3].startswith("failed")
    assert table.rows[-1][5].startswith("> horizon")


def test_the_sentences_count_verdicts_by_how_long_a_task_takes(summary: Summary) -> None:
    """And say of each rule of thumb what they make of it; tasks are counted over the whole grid."""
    counted, ruled, *became = summary.sentences
    assert counted == (
        "Tasks of 0.5 s, 3 cells: response time – `inline` faster in 0, `celery` faster in 1, not significant in 1, "
        "unknown in 1 (in 1 only `celery` infinite); time to done – `inline` faster in 0, `celery` faster in 1, not "
        "significant in 1, unknown in 1 (in 1 only `celery` infinite); "
        "bystanders – `inline` faster in 0, `celery` faster in 1, not significant in 2."
    )
    failed = "contradicted (faster in 1 of 3 cells, slower in 0; only `celery` infinite in 1)"
    assert ruled == (
        f"“For `io` tasks of 0.5 s and more, use `celery`”: response time – {failed}; time to done – {failed}; "
        "bystanders – not decided (faster in 1 of 3 cells, slower in 0)."
    )
    assert [sentence.partition(": ")[0] for sentence in became] == ["`inline`", "`celery`"]


@pytest.mark.parametrize(
    ("verdicts", "says"),
    [
        (["faster", "faster", "faster"], "supported (faster in 3 of 3 cells, slower in 0);"),
        (["faster", "faster", "slower"], "contradicted (faster in 2 of 3 cells, slower in 1);"),
        (["faster", "faster", "unknown"], "not decided (faster in 2 of 3 cells, slower in 0);"),
        (["no significant difference"] * 3, "not decided (faster in 0 of 3 cells, slower in 0);"),
        (["faster", "inline"], "supported (faster in 1 of 3 cells, slower in 0; only `inline` infinite in 2);"),
        (["faster", "celery"], "contradicted (faster in 1 of 3 cells, slower in 0; only `celery` infinite in 2);"),
        (["faster", "both"], "supported (faster in 1 of 3 cells, slower in 0; both infinite in 2, left out);"),
        (["both"], "not decided (faster in 0 of 3 cells, slower in 0; both infinite in 3, left out);"),
        (["faster", "sometimes"], "not decided (faster in 1 of 3 cells, slower in 0);"),
    ],
)
def test_a_rule_is_judged_by_verdicts_and_by_who_fails_always(summary: Summary, verdicts: list[str], says: str) -> None:
    """Of who fails in some rounds only nothing is said. The last verdict that is given stands for the cells left."""
    infinite: dict[str, list[float | None]] = {
        "inline": [0.0] * 5, "celery": [math.inf] * 5, "both": [None] * 5, "sometimes": [1.0, 0.0, 0.0, 0.0, 0.0]
    }  # fmt: skip
    given = chain(verdicts, repeat(verdicts[-1]))

    def judged(c: Comparison) -> Comparison:
        if c.metric != "response_p95_ms" or not c.primary:
            return c
        verdict = next(given)
        if verdict not in infinite:
            return c.model_copy(update={"verdict": verdict, "ratios": [1.0] * 5})
        unknown = {"verdict": "unknown", "reason": "infinite figures: …", "ratios": infinite[verdict]}
        return c.model_copy(update=unknown)

    changed = summary.model_copy(update={"comparisons": [judged(c) for c in summary.comparisons]})
    assert f"response time – {says}" in crossover.sentences(changed)[1]


def test_the_count_and_the_rule_agree_on_who_fails(summary: Summary) -> None:
    """Whoever is infinite in most rounds has no figure, but may win in another: neither sentence counts it so."""
    mostly = {"verdict": "unknown", "reason": "infinite figures: …", "ratio": None, "low": None, "high": None,
              "ratios": [1.0, 0.0, 0.0, 0.0, 0.0], "baseline_figure": math.inf}  # fmt: skip
    changed = summary.model_copy(update={"comparisons": [c.model_copy(update=mostly) for c in summary.comparisons]})
    assert {square.detail for one in maps(changed) for square in one.squares} == {"infinite in some rounds"}
    assert not any("only" in sentence for sentence in crossover.sentences(changed))


def test_a_rule_is_judged_for_each_kind_of_work_too(summary: Summary) -> None:
    """Tasks that compute, in the last cell, are another matter than those that await."""
    last = summary.cells[-1].model_copy(update={"probe_work": "cpu"})
    told = crossover.sentences(summary.model_copy(update={"cells": [*summary.cells[:-1], last]}))
    rules = {said.partition(":")[0]: said for said in told if "use `celery`" in said}
    assert len(rules) == 3
    awaited = rules["“For `io` tasks of 0.5 s and more, use `celery`”"]
    assert "response time – not decided (faster in 1 of 2 cells, slower in 0);" in awaited
    computed = rules["“For `cpu` tasks of 0.5 s and more, use `celery`”"]
    assert "contradicted (faster in 0 of 1 cells, slower in 0; only `celery` infinite in 1)" in computed


def test_a_rule_says_nothing_of_who_fails_in_too_few_rounds(summary: Summary) -> None:
    """One round in which one of them is infinite is no evidence."""
    few = {"verdict": "unknown", "reason": "too few rounds: 1; a verdict needs 5", "ratios": [0.0], "rounds": [1]}
    changed = summary.model_copy(update={"comparisons": [c.model_copy(update=few) for c in summary.comparisons]})
    assert "use `celery`”: response time – not decided (faster in 0 of 3 cells, slower in 0);" in "".join(
        crossover.sentences(changed)
    )


def test_rules_are_about_tasks_of_that_length_and_longer(summary: Summary) -> None:
    """The second contender wins every long cell and none of the short ones."""
    long = {cell.scenario: cell.model_copy(update={"probe_seconds": 5.0}) for cell in summary.cells[1:]}
    cells = [long.get(cell.scenario, cell) for cell in summary.cells]
    verdict = {True: "faster", False: "slower"}
    comparisons = [c.model_copy(update={"verdict": verdict[c.scenario in long]}) for c in summary.comparisons]
    told = crossover.sentences(summary.model_copy(update={"cells": cells, "comparisons": comparisons}))
    assert [said.partition(": ")[0] for said in told[:2]] == ["Tasks of 0.5 s, 1 cell", "Tasks of 5 s, 2 cells"]
    assert "use `celery`”: response time – contradicted (faster in 2 of 3 cells, slower in 1)" in told[2]
    assert "use `celery`”: response time – supported (faster in 2 of 2 cells, slower in 0)" in told[3]


def test_the_command_repeats_the_whole_grid(summary: Summary) -> None:
    assert summary.reproduce.endswith("--contender celery --scenario map --fault none --duration 5")


def test_a_quick_run_decides_nothing(run: Path, tmp_path: Path) -> None:
    directory, record = copied(run, tmp_path)
    record.plan.quick = True
    directory.write(record)
    summary = report.write(directory.path)
    assert {square.headline for one in maps(summary) for square in one.squares} == {"no verdict"}
    assert not any("use `" in sentence for sentence in summary.sentences)


def copied(run: Path, folder: Path) -> tuple[RunDir, RunRecord]:
    """Return a copy of a run that may be changed, and its record."""
    directory = RunDir(folder / "r")
    shutil.copytree(run, directory.path)
    return directory, directory.read()


def test_a_map_of_a_run_that_was_interrupted_says_how_many_rounds_there_are(run: Path, tmp_path: Path) -> None:
    directory, record = copied(run, tmp_path)
    record.interrupted = True
    for block in record.blocks:
        block.state = "finished" if block.round <= 1 else "planned"
    directory.write(record)
    summary = report.write(directory.path)
    assert answers(maps(summary)[0]) == [("unknown", "1 round"), ("unknown", "1 round"), ("unknown", "celery infinite")]
    (missing,) = [limitation for limitation in summary.limitations if "interrupted" in limitation]
    assert "24 of 30 blocks are missing" in missing
    assert missing.endswith(", and 4 more).")
