"""What the models of the request bodies take and refuse."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from workload.schemas import Action, AsyncTask, ChatMessage, Probe, Registration, Steps

GOOD: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Action, {"message": "two\nlines, 中文, \x01"}),
    (Action, {"message": "x", "unknown": 1}),
    (Registration, {"email": "a@example.com", "username": 'Ann "x" <b@example.com>'}),
    (Steps, {}),
    (Steps, {"fail_step": None}),
    (Steps, {"fail_step": 3}),
    (AsyncTask, {"name": "n"}),
    (AsyncTask, {"name": "n", "seconds": 0}),
    (ChatMessage, {"user_id": "u" * 200, "message": "m" * 10_000}),
    (Probe, {"work": "crash", "seconds": 60}),
]

BAD: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (Action, {}),
    (Action, {"message": ""}),
    (Action, {"message": 1}),
    (Action, {"message": "a\x00b"}),
    (Action, {"message": "a\x00\n"}),
    (Action, {"message": "\ud800"}),
    (Action, {"message": "m" * 10_001}),
    (Registration, {"email": "a@example.com, b@example.com", "username": "u"}),
    (Registration, {"email": "a@example.com\nBcc: b@example.com", "username": "u"}),
    (Registration, {"email": "Ann <a@example.com>", "username": "u"}),
    (Registration, {"email": "\ud800@example.com", "username": "u"}),
    (Registration, {"email": "a@example.com", "username": "\x00"}),
    (Steps, {"fail_step": 0}),
    (Steps, {"fail_step": 4}),
    (Steps, {"fail_step": True}),
    (Steps, {"fail_step": "1"}),
    (AsyncTask, {"name": "n", "seconds": -0.1}),
    (AsyncTask, {"name": "n", "seconds": 60.1}),
    (AsyncTask, {"name": "n", "seconds": float("nan")}),
    (AsyncTask, {"name": "n", "seconds": float("inf")}),
    (AsyncTask, {"name": "n", "seconds": "1"}),
    (ChatMessage, {"user_id": "u" * 201, "message": "m"}),
    (Probe, {"work": "sleep", "seconds": 1}),
    (Probe, {"work": "io"}),
]


@pytest.mark.parametrize(("model", "body"), GOOD)
def test_takes(model: type[BaseModel], body: dict[str, Any]) -> None:
    """A good body is taken, and its text is not changed."""
    assert model.model_validate(body).model_dump().items() >= {k: v for k, v in body.items() if k != "unknown"}.items()


@pytest.mark.parametrize(("model", "body"), BAD)
def test_refuses(model: type[BaseModel], body: dict[str, Any]) -> None:
    """A bad body is refused with a reason, whatever the type of its values."""
    with pytest.raises(ValidationError):
        model.model_validate(body)


def test_an_international_domain_becomes_one_that_every_mail_server_knows() -> None:
    """SMTP without extensions knows ASCII only."""
    registration = Registration(email="a@bücher.example.com", username="u")
    assert registration.email == "a@xn--bcher-kva.example.com"
