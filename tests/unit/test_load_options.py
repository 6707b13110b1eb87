"""The load's options: what is taken, and the sentence that refuses the rest."""

from pathlib import Path
from typing import Any

import pytest

from loadtests.options import check_mode, read_options
from loadtests.target import UsageError

PLAIN: dict[str, Any] = {
    "host": "http://127.0.0.1:8000",
    "scenario": "mixed",
    "arrivals": "poisson",
    "seed": None,
    "probe_work": "io",
    "probe_seconds": 0.05,
    "in_flight": 1000,
    "samples": None,
    "rate": None,
    "warmup": None,
    "duration": None,
    "bystanders": None,
}
SCHEDULE = {"rate": 25.0, "duration": 15.0}
LOCUST: dict[str, Any] = PLAIN | {
    "headless": True,
    "master": False,
    "worker": False,
    "processes": None,
    "num_users": None,
    "run_time": None,
}


def test_a_schedule_spans_its_warm_up_and_its_window() -> None:
    """A schedule spans its warm up and its window."""
    assert read_options(PLAIN | SCHEDULE | {"warmup": 2.0}).span_s == 17.0


def test_contenders_are_loaded_side_by_side_unless_one_is_chosen() -> None:
    """Named one by one or with commas; where none is named, the host is loaded."""
    urls = {"inline": "http://127.0.0.1:1", "celery": "http://127.0.0.1:2"}
    named = PLAIN | {"contender_url": ["inline=http://127.0.0.1:1,celery=http://127.0.0.1:2"]}
    assert read_options(named).targets == urls
    assert read_options(named | {"contender": "both"}).targets == urls
    assert read_options(named | {"contender": "celery"}).targets == {"celery": urls["celery"]}
    assert read_options(PLAIN).targets == {None: PLAIN["host"]}


def test_bystanders_run_beside_named_contenders_without_being_asked_for() -> None:
    """Unless a number is given, or a schedule that says nothing of them."""
    named = PLAIN | {"contender_url": ["inline=http://127.0.0.1:1"]}
    assert read_options(named).bystanders_per_s == 20.0
    assert read_options(named | {"bystanders": 0.0}).bystanders_per_s == 0.0
    assert read_options(named | SCHEDULE).bystanders_per_s == 0.0
    assert read_options(PLAIN).bystanders_per_s == 0.0


def test_the_forms_text_becomes_numbers_and_its_empty_seed_none() -> None:
    """The forms text becomes numbers and its empty seed none."""
    assert read_options(PLAIN | {"seed": "12"}).seed == 12
    assert read_options(PLAIN | {"seed": ""}).seed is None


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (SCHEDULE | {"rate": 0.0}, "--rate 0.0"),
        (SCHEDULE | {"rate": -1.0}, "--rate -1.0"),
        (SCHEDULE | {"rate": float("nan")}, "--rate nan"),
        (SCHEDULE | {"duration": 0.0}, "--duration 0.0"),
        (SCHEDULE | {"warmup": -1.0}, "--warmup -1.0"),
        (SCHEDULE | {"bystanders": -1.0}, "--bystanders -1.0"),
        (SCHEDULE | {"rate": 1e9}, "too long"),
        ({"rate": 5.0}, "--rate needs --duration"),
        ({"duration": 5.0}, "give --rate"),
        ({"ids": "again"}, "--ids belongs to a fixed schedule: give --rate"),
        ({"contender_url": ["inline"]}, "--contender-url inline must look like"),
        ({"contender_url": ["a=http://localhost:1", "a=http://localhost:2"]}, "the name a is taken"),
        ({"contender_url": ["both=http://localhost:1"]}, "the name both is taken"),
        ({"contender_data": ["inline"]}, "--contender-data inline must look like"),
        ({"contender_data": ["a=/data"]}, "--contender-data a: there is no --contender-url"),
        ({"contender": "celery"}, "--contender celery is not known"),
        ({"contender_url": ["a=http://localhost:1"], "contender": "both"}, "--contender both is not known"),
        ({"scenario": "nonsense"}, "--scenario nonsense"),
        ({"probe_work": "sleep"}, "--probe-work sleep"),
        ({"probe_seconds": 61.0}, "--probe-seconds 61.0"),
        ({"in_flight": 0}, "--in-flight 0"),
        ({"seed": "x"}, "--seed x"),
    ],
)
def test_a_wrong_option_is_refused_by_name(values: dict[str, Any], sentence: str) -> None:
    """A wrong option is refused by name."""
    with pytest.raises(UsageError, match=sentence.replace("-", r"\-")):
        read_options(PLAIN | values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"rate": 5.0, "headless": False}, "--headless"),
        ({"rate": 5.0, "num_users": 3}, "--users"),
        ({"rate": 5.0, "run_time": 3}, "--run-time"),
        ({"seed": 5, "master": True}, "--seed needs --rate where several workers send"),
        ({"samples": Path("x"), "processes": 2}, "--samples needs --rate where several workers send"),
        ({"rate": 5.0, "worker": True}, "--rate is for the master"),
        ({"samples": Path("x"), "worker": True}, "--samples is for the master"),
    ],
)
def test_options_of_locust_that_contradict_the_loads_are_refused(values: dict[str, Any], sentence: str) -> None:
    """Options of locust that contradict the loads are refused."""
    with pytest.raises(UsageError, match=sentence):
        check_mode(LOCUST | values)


def test_a_fixed_schedule_may_be_shared_and_a_plain_run_needs_none() -> None:
    """A forked worker has its master's options."""
    fixed = SCHEDULE | {"samples": Path("x"), "seed": 5}
    check_mode(LOCUST | fixed | {"master": True})
    check_mode(LOCUST | fixed | {"processes": 2})
    check_mode(LOCUST | fixed | {"processes": 2, "worker": True})
    check_mode(LOCUST)
    check_mode(LOCUST | {"seed": "", "processes": 2})
    check_mode(LOCUST | {"num_users": 25, "run_time": 30, "seed": 4})
