"""Scenarios: TOML in, typed objects out, errors that name the file and the key."""

from pathlib import Path
from typing import get_args

import pytest

from lab.environment import PROJECT
from lab.errors import UsageError
from lab.scenario import Scenario, load_scenarios
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


def test_a_scenario_may_name_exactly_the_users_that_there_are() -> None:
    """The lab does not import the load, so it has their names a second time."""
    assert get_args(Scenario.model_fields["users"].annotation) == get_args(ScenarioName)
