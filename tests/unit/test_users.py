"""The scenarios: that their requests are valid, varied, repeatable and in the stated proportions."""

import json
from collections import Counter
from email import message_from_bytes
from pathlib import Path
from random import Random
from typing import get_args

import pytest
from pydantic import BaseModel

from loadtests.target import UsageError
from loadtests.users import MIXED_WEIGHTS, Request, ScenarioName, Upload, request_id, scenario
from workload import schemas

BODIES: dict[str, type[BaseModel]] = {
    "/action": schemas.Action,
    "/register": schemas.Registration,
    "/multi-tasks": schemas.Steps,
    "/async-task": schemas.AsyncTask,
    "/chat": schemas.ChatMessage,
    "/probe": schemas.Probe,
}

NAMES = [name for name in get_args(ScenarioName) if name != "requests"]  # those are tested by themselves


def draw(name: ScenarioName, n: int, seed: int = 7) -> list[Request]:
    """Return the first requests of a scenario."""
    users = scenario(name, "io", 0.05)
    return [users.request(Random(request_id(seed, seq).int)) for seq in range(n)]


@pytest.mark.parametrize("name", NAMES)
def test_every_body_is_one_that_the_apps_accept(name: ScenarioName) -> None:
    """Every body is one that the apps accept."""
    for request in draw(name, 300):
        if request.path != "/upload":
            BODIES[request.path].model_validate_json(request.body, strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_asks_for_the_same_things(name: ScenarioName) -> None:
    """The same seed asks for the same things."""
    assert draw(name, 50) == draw(name, 50)


def test_another_seed_asks_for_other_things() -> None:
    """Another seed asks for other things."""
    assert draw("chat", 50, seed=1) != draw("chat", 50, seed=2)
    assert request_id(1, 0) != request_id(2, 0)


def test_request_ids_are_all_different() -> None:
    """Request ids are all different."""
    assert len({request_id(seed, seq) for seed in (1, 11) for seq in range(2000)}) == 4000


def test_mixed_asks_for_each_route_in_the_stated_proportion() -> None:
    """Mixed asks for each route in the stated proportion."""
    n = 10_000
    counts = Counter(request.path.removeprefix("/") for request in draw("mixed", n))
    assert sum(MIXED_WEIGHTS.values()) == 100
    assert set(counts) == set(MIXED_WEIGHTS)
    for name, weight in MIXED_WEIGHTS.items():
        share = weight / 100
        assert counts[name] == pytest.approx(n * share, abs=5 * (n * share * (1 - share)) ** 0.5)


def test_mixed_contains_short_coroutines_and_short_blocking_probes() -> None:
    """Mixed contains short coroutines and short blocking probes."""
    bodies = {(r.path, json.loads(r.body).get("seconds")) for r in draw("mixed", 500) if r.path != "/upload"}
    assert ("/async-task", 0.1) in bodies
    assert ("/probe", 0.05) in bodies


def test_a_sequence_may_cause_three_tasks_and_anything_else_one() -> None:
    """A sequence may cause three tasks and anything else one."""
    assert {(r.path == "/multi-tasks", r.tasks) for r in draw("mixed", 500)} == {(True, 3), (False, 1)}


def test_a_probe_does_what_it_was_told() -> None:
    """A probe does what it was told."""
    (request,) = [scenario("probe", "cpu", 0.3).request(Random(1))]
    assert json.loads(request.body) == {"work": "cpu", "seconds": 0.3}


@pytest.mark.parametrize("name", ["action", "chat"])
def test_messages_are_english_and_chinese(name: ScenarioName) -> None:
    """Messages are english and chinese."""
    messages = [json.loads(request.body)["message"] for request in draw(name, 200)]
    assert any(message.isascii() for message in messages)
    assert any("\u4e00" <= letter <= "\u9fff" for message in messages for letter in message)


def test_an_upload_carries_a_document_unchanged(tmp_path: Path) -> None:
    """An upload carries a document unchanged."""
    content = b"\r\n%PDF \x00 \xff --loadtests\r\n--\r\n"
    (tmp_path / "\u56fe\u4e66.pdf").write_bytes(content)
    (tmp_path / "ignored.py").write_bytes(b"pass")
    request = Upload(tmp_path).request(Random(1))
    head = f"Content-Type: {request.content_type}\r\n\r\n".encode()
    _whole, part = message_from_bytes(head + request.body).walk()
    assert part.get_payload(decode=True) == content
    assert "\u56fe\u4e66.pdf".encode() in request.body


def test_uploading_from_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """Uploading from an empty folder is refused."""
    with pytest.raises(UsageError, match="no documents"):
        Upload(tmp_path)


def described(folder: Path, requests: object) -> Path:
    """Write a file that describes requests."""
    file = folder / "requested.json"
    file.write_text(json.dumps(requests))
    return file


def test_described_requests_come_in_their_proportions(tmp_path: Path) -> None:
    """By their weights, each with its body."""
    kinds = [
        {"method": "GET", "path": "/items", "weight": 3, "body": None, "tasks": 0},
        {"method": "POST", "path": "/orders", "weight": 1, "body": {"a": 1}, "tasks": 2},
    ]
    users = scenario("requests", "io", 0.05, described(tmp_path, kinds))
    drawn = [users.request(Random(request_id(7, seq).int)) for seq in range(2000)]
    orders = [request for request in drawn if request.path == "/orders"]
    assert {(request.method, request.body, request.tasks) for request in orders} == {("POST", b'{"a": 1}', 2)}
    assert 400 < len(orders) < 600


@pytest.mark.parametrize("requests", [[], {}, [{"method": "GET"}], "GET /"])
def test_what_describes_no_requests_is_refused(tmp_path: Path, requests: object) -> None:
    """In one sentence that names the file."""
    with pytest.raises(UsageError, match=r"^--requests .*requested\.json"):
        scenario("requests", "io", 0.05, described(tmp_path, requests))
    with pytest.raises(UsageError, match="needs --requests"):
        scenario("requests", "io", 0.05)
