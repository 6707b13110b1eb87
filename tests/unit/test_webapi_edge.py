"""The HTTP edge on an app of its own: request ids, size limits, and refusals that can be encoded."""

import asyncio
import json
from typing import Annotated, Any
from uuid import UUID, uuid4

import pytest
from fastapi import APIRouter, Body, Depends
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.types import Message

from webapi import body_limit
from webapi.app import MAX_JSON_BYTES, create_app
from webapi.body_limit import BodyLimit
from webapi.refusals import NotHandedOver, OutcomeUnknown, answer
from webapi.request_id import RequestId, check_request_id
from workload.store import StoreUnavailable

FAILURES = {"refused": NotHandedOver("away"), "unknown": OutcomeUnknown("who knows"), "store": StoreUnavailable("away")}

router = APIRouter(dependencies=[Depends(check_request_id)])


@router.post("/echo")
async def echo(request_id: RequestId, text: Annotated[str, Body(embed=True, pattern=r"^[^\x00]*$")]) -> str:
    """Return the request's id."""
    return str(request_id)


@router.get("/fail/{how}")
async def fail(how: str) -> None:
    """Fail as asked."""
    raise FAILURES[how]


client = TestClient(create_app("edge", router, lambda _app: pytest.fail("no lifespan here")))


def test_a_given_request_id_is_used_and_carried_back() -> None:
    given = str(uuid4())
    response = client.post("/echo", json={"text": "x"}, headers={"X-Request-ID": given})
    assert (response.json(), response.headers["X-Request-ID"]) == (given, given)


def test_a_missing_request_id_is_drawn_and_is_the_one_the_endpoint_sees() -> None:
    response = client.post("/echo", json={"text": "x"})
    assert UUID(response.json()) == UUID(response.headers["X-Request-ID"])


@pytest.mark.parametrize("bad", ["", "nope", "123", "é", "6f1c-1f4e5c0f4d7b9a353f0b0b7a7c11"])
@pytest.mark.parametrize("path", ["/echo", "/fail/store"])
def test_any_other_request_id_is_refused_once(path: str, bad: str) -> None:
    send = client.post if path == "/echo" else client.get
    response = send(path, headers={b"X-Request-ID": bad.encode()})
    complaints = [problem for problem in response.json()["detail"] if problem["loc"] == ["header", "X-Request-ID"]]
    assert (response.status_code, len(complaints), "X-Request-ID" in response.headers) == (422, 1, False)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/echo", b"{", 422),
        ("POST", "/echo", b'{"text": 1}', 422),
        ("POST", "/echo", b"\xff", 400),
        ("POST", "/echo", b"x" * (MAX_JSON_BYTES + 1), 413),
        ("GET", "/echo", None, 405),
        ("GET", "/nowhere", None, 404),
        ("GET", "/fail/refused", None, 503),
        ("GET", "/fail/unknown", None, 504),
        ("GET", "/fail/store", None, 503),
    ],
)
def test_every_refusal_says_what_is_wrong_and_carries_the_request_id(
    method: str, path: str, body: bytes | None, status: int
) -> None:
    given = str(uuid4())
    headers = {"X-Request-ID": given, "Content-Type": "application/json"}
    response = client.request(method, path, content=body, headers=headers)
    assert (response.status_code, response.headers["X-Request-ID"]) == (status, given)
    assert response.json()["detail"]
    assert ("Retry-After" in response.headers) == (status in (503, 504))


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "\udfff tail"])
def test_text_that_nothing_can_store_is_a_422_that_can_be_encoded(text: str) -> None:
    response = client.post("/echo", content=json.dumps({"text": text}), headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    assert response.content.decode("ascii")


def test_a_lone_surrogate_in_the_place_of_an_error_is_escaped() -> None:
    assert answer(422, "\ud800").body == b'{"detail": "\\ud800"}'


class Wire:
    """One HTTP request as a server gives it to an app, in chunks, and what the app did with it."""

    def __init__(self, *chunks: bytes, declared: int | None = None, endless: bool = False) -> None:
        self.chunks = list(chunks)
        self.endless = endless
        self.history: list[str] = []
        self.bodies: list[Message] = []
        self.status = 0
        headers = [] if declared is None else [(b"content-length", str(declared).encode())]
        self.scope: dict[str, Any] = {"type": "http", "path": "/", "method": "POST", "headers": headers}

    async def receive(self) -> Message:
        await asyncio.sleep(0)
        self.history.append("received")
        chunk = self.chunks[0] if self.endless else self.chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": self.endless or bool(self.chunks)}

    async def send(self, message: Message) -> None:
        self.history.append("sent")
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.bodies.append(message)


async def read_all(scope: Any, receive: Any, send: Any) -> None:
    """An app that reads its whole body and answers 200."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"read"})


def put_through(wire: Wire, limit: int) -> Wire:
    # As in an app, what is raised out of `receive` is answered by somebody further in.
    inner = Starlette()
    inner.router.default = read_all
    asyncio.run(BodyLimit(inner, limit, {})(wire.scope, wire.receive, wire.send))
    return wire


def test_a_body_of_exactly_the_limit_is_read() -> None:
    assert put_through(Wire(b"12", b"345", declared=5), 5).status == 200


def test_a_declared_length_over_the_limit_is_answered_before_anything_is_read() -> None:
    wire = put_through(Wire(b"123456", declared=6), 5)
    assert (wire.status, wire.history[:2]) == (413, ["sent", "sent"])


def test_an_undeclared_length_is_counted_and_the_answer_given_as_soon_as_it_is_over() -> None:
    wire = put_through(Wire(b"123", b"456", b"789"), 5)
    assert (wire.status, wire.history[:3]) == (413, ["received", "received", "sent"])


def test_a_refused_body_without_end_is_read_no_further_than_the_linger() -> None:
    wire = put_through(Wire(b"x" * 65536, endless=True), 5)
    assert wire.status == 413
    assert wire.history.count("received") <= body_limit.LINGER_BYTES // 65536 + 2
    assert [message.get("more_body", False) for message in wire.bodies] == [True, False]
