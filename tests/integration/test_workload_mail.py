"""Mail over a real SMTP conversation, and with a server that is none."""

import socket
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest

from lab.stacks.servers import MailSink
from tests.support import until
from workload import mail
from workload.jobs import send_email
from workload.settings import settings


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Settings are read anew before and after each test."""
    settings.cache_clear()
    yield
    settings.cache_clear()


def test_a_mail_arrives_once_at_its_one_recipient_with_its_tasks_id(
    mail_sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the name in its subject tries."""
    monkeypatch.setenv("SMTP_URL", mail_sink.url)
    names = [
        "Ann",
        "名字",
        "a\r\nBcc: x@example.com\r\nX-Task-ID: 0",
        "=?utf-8?q?a=0d=0aTo:_x@example.com?=",
        "x" * 3000,
    ]
    tasks = [uuid4() for _ in names]
    start = mail_sink.size()
    for task, name in zip(tasks, names, strict=True):
        send_email("ann@example.com", f"Welcome, {name}", f"Hello {name}\n.\nQUIT\n", task_id=task)
    assert until(lambda: len(mail_sink.mails(start)) >= len(tasks))
    mails = mail_sink.mails(start)
    assert [each["task_id"] for each in mails] == [str(task) for task in tasks]
    assert all(each["to"] == ["ann@example.com"] for each in mails)


def test_a_server_that_is_not_there_fails_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection is an OSError."""
    monkeypatch.setenv("SMTP_URL", "smtp://127.0.0.1:1")
    with pytest.raises(OSError):
        send_email("ann@example.com", "s", "b", task_id=uuid4())


def test_a_server_that_never_says_a_word_fails_the_job_in_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes the connection, and is silent."""
    monkeypatch.setattr(mail, "TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{silent.getsockname()[1]}")
        started_s = time.monotonic()
        with pytest.raises(OSError):
            send_email("ann@example.com", "s", "b", task_id=uuid4())
        assert time.monotonic() - started_s < 5
