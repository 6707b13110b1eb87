"""`lab calibrate` as a whole, on a server that is not what it claims to be."""

import io
import json
import socket
from pathlib import Path

import pytest
from rich.console import Console

from lab import calibrate, compare, generator
from lab.against_itself import plan_against_itself
from lab.calibration import FILE
from lab.contenders import load_contenders
from lab.environment import PROJECT, available_cpus, place
from lab.errors import COULD_NOT_MEASURE, VOID
from lab.generator import Bounds
from lab.instrument_cost import CostTrial
from lab.report.summary import Calibration
from lab.rundir import RunDir
from lab.stacks.local import Servers
from lab.stacks.supervisor import Supervisor
from tests.realblocks import NoInterrupt


@pytest.mark.alone
@pytest.mark.usefixtures("nothing_stolen")
def test_a_server_that_is_not_what_it_claims_fails_the_calibration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its p95 is 200 ms in place of 20: the exit status says so, and so does every report."""
    monkeypatch.setattr(calibrate, "Interrupt", NoInterrupt)
    monkeypatch.setattr(calibrate, "BOUNDS", Bounds(lowest=200, highest=200, halvings=0, seconds=0.5))
    plan = calibrate.calibration_plan(seed=5)
    plan.void_repeats = 2
    plan.contenders = [one for one in plan.contenders if one.name == "constant"]
    plan.contenders[0].api = ["two-modes" if part == "constant" else part for part in plan.contenders[0].api]
    plan.scenarios[0] = plan.scenarios[0].model_copy(update={"rate": 300, "warmup_s": 0.2, "duration_s": 2})
    printed = io.StringIO()

    status = calibrate.calibrate(plan, tmp_path, Console(file=printed, width=200), as_json=False)

    assert status == VOID, printed.getvalue()
    (run,) = tmp_path.iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert len(summary["calibration"]["servers"]) == 1, printed.getvalue()
    (server,) = summary["calibration"]["servers"]
    assert (server["requests"], server["outcomes"]) == (600, {"acknowledged": 600})
    assert server["truth"]["p95_ms"] == 20
    assert server["lab"]["p95_ms"] >= 200
    assert server["closed_loop"]["p95_ms"] > 0
    assert any(sentence.startswith("constant: p95 is 20") for sentence in server["wrong"])
    generators = summary["calibration"]["generators"]
    assert [(one["processes"], one["rate"] or one["too_fast"]) for one in generators] == [(1, 200), (2, 200)]
    for text in (printed.getvalue(), (run / "report.md").read_text(), (run / "report.html").read_text()):
        assert "and should be 20.0 ms" in text


@pytest.mark.alone
@pytest.mark.usefixtures("nothing_stolen")
def test_what_a_calibration_has_found_is_kept_where_a_later_trial_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app that does not start without a journal, and a server of the generator's whose port is taken: status 1."""
    monkeypatch.setattr(calibrate, "Interrupt", NoInterrupt)
    plan = calibrate.calibration_plan(seed=5)
    plan.void_repeats = 2
    plan.contenders = [one for one in plan.contenders if one.name in ("constant", "inline")]
    inline = plan.contenders[1]
    inline.api = ["sh", "-c", 'test "$JOURNAL" != 0 && exec "$0" "$@"', *inline.api]
    plan.scenarios = [
        one.model_copy(update={"warmup_s": 0.2, "duration_s": 1, "bystanders": False}) for one in plan.scenarios
    ]
    printed = io.StringIO()

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(generator, "free_port", lambda: taken.getsockname()[1])
        status = calibrate.calibrate(plan, tmp_path, Console(file=printed, width=400), as_json=False)

    assert status == COULD_NOT_MEASURE, printed.getvalue()
    (run,) = tmp_path.iterdir()
    found = Calibration.model_validate_json((run / FILE).read_text())
    assert [server.server for server in found.servers] == ["constant"]
    assert found.servers[0].closed_loop.p95_ms
    assert (found.costs, found.generators) == ([], [])
    for text in (printed.getvalue(), (run / "report.md").read_text(), (run / "report.html").read_text()):
        assert "What journal and sampler cost inline could not be tried: " in text
        assert "The load generator alone could not be tried: " in text
        assert "are within 2 % or 1 ms of the truth" not in text


def test_a_round_with_and_without_the_instrument(tmp_path: Path) -> None:
    """Both legs are real: a leg that journals where it should not, or does not where it should, is refused."""
    inline = load_contenders(PROJECT / "contenders.toml")["inline"]
    placement = place(available_cpus())
    with Supervisor(tmp_path / "cost") as supervisor, Servers(supervisor, placement) as servers:
        found = CostTrial(supervisor, servers, inline, lambda: None).run(seed=1, rounds=1, seconds=2)
    assert [cost.metric for cost in found] == ["throughput_per_s", "response_p50_ms", "response_p95_ms"]
    assert all(cost.instrumented and cost.bare for cost in found)
    assert {path.parent.name for path in tmp_path.glob("cost/*/resources.parquet")} == {"01-with"}


def test_too_few_comparisons_are_no_judgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round of `--aa`, by real blocks: nothing can be said of the verdicts, and just that is said."""
    monkeypatch.setattr(compare, "Interrupt", NoInterrupt)
    plan = plan_against_itself(seed=5, groups=1)
    short = {"warmup_s": 0, "duration_s": 0.5, "bystanders": False}
    plan = plan.model_copy(
        update={"rounds": 1, "void_repeats": 0, "scenarios": [one.model_copy(update=short) for one in plan.scenarios]}
    )
    printed = io.StringIO()

    status = compare.run_plan(plan, tmp_path, Console(file=printed, width=200), as_json=False)

    assert status == VOID, printed.getvalue()
    (run,) = tmp_path.iterdir()
    assert run.name.endswith("-calibrate-aa")
    assert {block.state for block in RunDir(run).read().blocks} == {"finished"}
    aa = json.loads((run / FILE).read_text())["aa"]
    assert [(aa[kind]["planned"], aa[kind]["judged"]) for kind in ("alike", "unlike")] == [(2, 0), (2, 0)]
    for text in (printed.getvalue(), (run / "report.md").read_text(), (run / "report.html").read_text()):
        assert "A against A: 0 of 2 comparisons could be judged, and 20 are needed." in text
