"""Scenarios: TOML in, typed objects out, errors that name the file and the key."""

from pathlib import Path
from typing import get_args

import pytest

from lab.environment import PROJECT
from lab.errors import UsageError
from lab.scenario import Scenario, choices, load_scenarios
from loadtests.users import ScenarioName


def test_every_scenario_of_the_project_loads() -> None:
    """The files that come with the project are right, and `mixed` is among them."""
    scenarios = load_scenarios(PROJECT / "scenarios")
    assert "mixed" in scenarios
    assert all(scenario.name == name for name, scenario in scenarios.items())


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("rate = ", "not TOML"),
        ('description = "x"\nusers = "mixed"\nduration_s = 5\n', "rate"),
        ('description = "x"\nusers = "mixed"\nrate = -1\nduration_s = 5\n', "rate"),
        ('description = "x"\nusers = "mixed"\nrate = 1\nduration_s = 5\nrat = 1\n', "rat"),
        ('description = "x"\nusers = "zzz"\nrate = 1\nduration_s = 5\n', "users"),
        ('description = "x"\nusers = "mixed"\nrate = 1\nduration_s = 5\narrivals = "burst"\n', "arrivals"),
    ],
)
def test_a_broken_scenario_is_named_with_its_file_and_key(tmp_path: Path, text: str, named: str) -> None:
    """The one sentence that the user reads names what to mend and where."""
    (tmp_path / "broken.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_scenarios(tmp_path)
    assert "broken.toml" in str(caught.value)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


GRID = 'description = "x"\nusers = "probe"\nduration_s = 5\n'
AXES = 'probe_work = ["io", "cpu"]\nprobe_seconds = [0.05, 5]\nrate = [2]\n'


def test_a_grid_is_a_scenario_for_each_combination(tmp_path: Path) -> None:
    """Each named after its cell; by the name of the file they are asked for together."""
    (tmp_path / "map.toml").write_text(f"{GRID}[grid]\n{AXES}")
    (tmp_path / "plain.toml").write_text(f"{GRID}rate = 1\n")
    found = load_scenarios(tmp_path)
    cells = ["map-io-0.05s-2", "map-io-5s-2", "map-cpu-0.05s-2", "map-cpu-5s-2"]
    assert list(found) == [*cells, "plain"]
    last = found[cells[-1]]
    assert (last.probe_work, last.probe_seconds, last.rate, last.duration_s) == ("cpu", 5, 2, 5)
    by_name = {name: [load.name for load in loads] for name, loads in choices(found.values()).items()}
    assert by_name == {"map": cells, "plain": ["plain"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"{GRID}[grid]\n{AXES.replace('rate = [2]', '')}", "'grid.rate': Field required."),
        (f"{GRID}[grid]\n{AXES.replace('[2]', '[]')}", "'grid.rate': List should have at least 1 item"),
        (f"{GRID}[grid]\n{AXES.replace('[2]', '[2, -1]')}", "'grid.rate.1': Input should be greater than 0."),
        (f"{GRID}[grid]\n{AXES.replace('[2]', '[2, 2.0]')}", "'grid.rate': each value must be there once."),
        (f"{GRID}[grid]\n{AXES.replace('cpu', 'gpu')}", "'grid.probe_work.1': Input should be 'io', "),
        (f"{GRID}[grid]\n{AXES}warmup_s = [1]\n", "'grid.warmup_s': Extra inputs are not permitted."),
        (f"{GRID}rate = 2\n[grid]\n{AXES}", "'rate': a scenario with a [grid] has it there."),
        (f"{GRID.replace('probe', 'mixed')}[grid]\n{AXES}", "'users': a [grid] is for the users \"probe\"."),
        (f"{GRID.replace('duration_s', 'duration')}[grid]\n{AXES}", "'duration_s': Field required."),
        (f"{GRID}grid = 3\n", "'grid': Input should be a valid dictionary"),
    ],
)
def test_a_broken_grid_is_named_with_its_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "map.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load_scenarios(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'map.toml'}: {says}")
    assert "\n" not in str(caught.value)


def test_a_scenario_may_name_exactly_the_users_that_there_are() -> None:
    """The lab does not import the load, so it has their names a second time."""
    assert get_args(Scenario.model_fields["users"].annotation) == get_args(ScenarioName)


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_a_scenario_is_named(tmp_path: Path, there: bool) -> None:
    """Whether it is there or not: nothing can be measured with it."""
    folder = tmp_path / "scenarios"
    if there:
        folder.mkdir()
    with pytest.raises(UsageError, match=rf"^{folder} holds no scenario: there is no \*\.toml in it\.$"):
        load_scenarios(folder)
