"""What the load asks for: one user class per scenario, each of which builds requests from a random generator.

A request is a pure function of the seed and its number, so that the same seed asks for the same things in the same
order. Of ``Random`` only ``random()`` is used: its sequence alone is promised not to change between Python versions.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID, uuid5

from loadtests.target import UsageError

DOCUMENTS = Path(__file__).parent / "documents"
CONTENT_TYPES = {
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".html": "text/html",
    ".md": "text/markdown",
    ".txt": "text/plain",
}
BOUNDARY = "loadtests-6b1f0d9c2a7e4f53"
REQUEST_IDS = UUID("0b0f7a52-5d0c-4f3e-9a53-6f8f6d1c2e77")

ScenarioName = Literal[
    "action", "register", "multi-tasks", "async-task", "upload", "chat", "probe", "mixed", "requests"
]
ProbeWork = Literal["io", "blocking", "cpu", "async_blocking", "fail", "crash"]

# How often `mixed` asks for what: shares of 100.
MIXED_WEIGHTS: dict[ScenarioName, int] = {
    "action": 30,
    "register": 15,
    "multi-tasks": 10,
    "async-task": 15,
    "upload": 5,
    "chat": 20,
    "probe": 5,
}
MIXED_PROBE: tuple[ProbeWork, float] = ("blocking", 0.05)
ASYNC_TASK_S = 0.1

SUBJECTS = (
    "The night job",
    "Order 4711",
    "Our newsletter",
    "用户登录",
    "The invoice for May",
    "订单已付款",
    "A backup",
)
EVENTS = (
    "was started.",
    "has arrived",
    "took longer than usual…",
    "已完成。",
    "could not be sent; trying again",
    "正在处理",
)
ADDENDA = ("", "", " Nobody was harmed.", " 请查收。", " See the log for more.", "\n\tsecond line: ¡ñandú! 🚀")
GIVEN_NAMES = ("Ada", "Grace", "Linus", "Søren", "Zoë", "王", "李", "Nguyễn", "Miles", "O'Neill")
FAMILY_NAMES = ("Lovelace", "Hopper", "小明", "静", "Müller", "Văn An", "van der Berg", "Smith")
QUESTIONS = (
    "Why are tides higher when the moon is full?",
    "When does a beekeeper harvest the honey?",
    "What made Vesuvius bury Pompeii?",
    "How long does a sourdough loaf bake?",
    "What does the lens of a lighthouse do?",
    "泡绿茶的水温应当是多少度？",
    "大熊猫每天吃多少竹子？",
    "从北京到上海的高铁要几个小时？",
    "中秋节为什么吃月饼？",
    "长城有多长？",
    "Which invoices have to be paid this month?",
    "后台任务失败以后会怎么样？",
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; ``tasks`` is how many tasks it may cause."""

    method: Literal["GET", "POST"]
    path: str
    tasks: int
    body: bytes = b""
    content_type: str = "application/json"


class Scenario(Protocol):
    """Builds the requests of one kind of user."""

    def request(self, rng: Random) -> Request:
        """Return the next request, drawn from ``rng``."""
        ...


def request_id(seed: int, seq: int) -> UUID:
    """Return the id of the request numbered ``seq`` of a seed."""
    return uuid5(REQUEST_IDS, f"{seed}/{seq}")


def ping(stream: Literal["loop", "thread"]) -> Request:
    """Return a bystander's request."""
    return Request("GET", f"/ping/{stream}", tasks=0)


class Action:
    """``POST /action`` with messages of one line and of two, in English and Chinese."""

    def request(self, rng: Random) -> Request:
        """Return one action."""
        message = f"{_pick(rng, SUBJECTS)} {_pick(rng, EVENTS)}{_pick(rng, ADDENDA)}"
        return _post("/action", {"message": message})


class Register:
    """``POST /register`` of people from many places, at addresses that exist nowhere."""

    def request(self, rng: Random) -> Request:
        """Return one registration."""
        username = f"{_pick(rng, GIVEN_NAMES)} {_pick(rng, FAMILY_NAMES)}"
        return _post("/register", {"email": f"user{_below(rng, 1_000_000)}@example.com", "username": username})


class MultiTasks:
    """``POST /multi-tasks``, none of whose steps fails."""

    def request(self, rng: Random) -> Request:  # noqa: ARG002 - nothing about it varies
        """Return one sequence of three steps."""
        return _post("/multi-tasks", {}, tasks=3)


class AsyncTask:
    """``POST /async-task`` of 0.1 s."""

    def request(self, rng: Random) -> Request:
        """Return one coroutine task."""
        return _post("/async-task", {"name": _pick(rng, SUBJECTS), "seconds": ASYNC_TASK_S})


class Upload:
    """``POST /upload`` of the sample documents. Raises UsageError where there are none."""

    def __init__(self, folder: Path = DOCUMENTS) -> None:
        paths = sorted(path for path in folder.glob("*") if path.suffix in CONTENT_TYPES)
        if not paths:
            raise UsageError(f"{folder} holds no documents to upload.")
        self._bodies = [_multipart(path.name, path.read_bytes(), CONTENT_TYPES[path.suffix]) for path in paths]

    def request(self, rng: Random) -> Request:
        """Return the upload of one document."""
        body = _pick(rng, self._bodies)
        return Request("POST", "/upload", 1, body, f"multipart/form-data; boundary={BOUNDARY}")


class Chat:
    """``POST /chat`` of fifty users, with questions that the documents answer and questions that they do not."""

    def request(self, rng: Random) -> Request:
        """Return one question."""
        return _post("/chat", {"user_id": f"user-{_below(rng, 50)}", "message": _pick(rng, QUESTIONS)})


class Probe:
    """``POST /probe`` of a stated work and length."""

    def __init__(self, work: ProbeWork, seconds: float) -> None:
        self._body = {"work": work, "seconds": seconds}

    def request(self, rng: Random) -> Request:  # noqa: ARG002 - nothing about it varies
        """Return one task of known cost."""
        return _post("/probe", self._body)


class Mixed:
    """Every route of the work, in the proportions of ``MIXED_WEIGHTS``."""

    def __init__(self) -> None:
        self._parts = [scenario(name, *MIXED_PROBE) for name in MIXED_WEIGHTS]
        self._bounds = list(accumulate(MIXED_WEIGHTS.values()))

    def request(self, rng: Random) -> Request:
        """Return a request of a scenario drawn by weight."""
        drawn = _below(rng, self._bounds[-1])
        part = next(part for part, bound in zip(self._parts, self._bounds, strict=True) if drawn < bound)
        return part.request(rng)


class Described:
    """Requests that a file describes: a JSON list of ``{method, path, weight, body, tasks}``.

    Raises UsageError where there is no such file.
    """

    def __init__(self, file: Path | None) -> None:
        if file is None:
            raise UsageError("--scenario requests needs --requests: the file that describes them.")
        try:
            described = json.loads(file.read_text())
            self._requests = [_described(one) for one in described]
            self._bounds = list(accumulate(int(one["weight"]) for one in described))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"--requests {file} cannot be used: {error!r}.") from error
        if not self._requests:
            raise UsageError(f"--requests {file} describes no request.")

    def request(self, rng: Random) -> Request:
        """Return one of the requests, drawn by weight."""
        drawn = _below(rng, self._bounds[-1])
        return next(one for one, bound in zip(self._requests, self._bounds, strict=True) if drawn < bound)


def scenario(name: ScenarioName, probe_work: ProbeWork, probe_seconds: float, requests: Path | None = None) -> Scenario:
    """Return the user of a scenario. Raises UsageError where what it needs is missing."""
    users: dict[ScenarioName, Callable[[], Scenario]] = {
        "action": Action,
        "register": Register,
        "multi-tasks": MultiTasks,
        "async-task": AsyncTask,
        "upload": Upload,
        "chat": Chat,
        "probe": lambda: Probe(probe_work, probe_seconds),
        "mixed": Mixed,
        "requests": lambda: Described(requests),
    }
    return users[name]()


def _post(path: str, body: dict[str, Any], tasks: int = 1) -> Request:
    return Request("POST", path, tasks, json.dumps(body, ensure_ascii=False).encode())


def _described(one: dict[str, Any]) -> Request:
    if one["method"] == "GET":
        return Request("GET", one["path"], one["tasks"])
    return _post(one["path"], one["body"] or {}, one["tasks"])


def _below(rng: Random, bound: int) -> int:
    return int(rng.random() * bound)


def _pick(rng: Random, choices: Sequence[T]) -> T:
    return choices[_below(rng, len(choices))]


def _multipart(name: str, content: bytes, content_type: str) -> bytes:
    head = (
        f"--{BOUNDARY}\r\n"
        f'Content-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: {content_type}\r\n\r\n"
    )
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
