"""How mails are composed: what a user types is text, never a header or a recipient."""

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload.mail import compose

TASK = UUID(int=7)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
HEADERS = ["From", "To", "Subject", "Date", "X-Task-ID", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]

NASTY = [
    "a\r\nBcc: x@example.com",
    "a\nX-Task-ID: 0",
    "a\r\n\r\nanother body",
    "=?utf-8?q?a=0d=0aBcc:_x@example.com?=",
    "a\x85Bcc: x@example.com",
    "a\u2028Bcc: x@example.com",
    "名字 " * 60,
    "x" * 2_000,
]


def sent(subject: str, body: str) -> EmailMessage:
    """Return a mail as its receiver parses it."""
    wire = compose("a@example.com", subject, body, task_id=TASK).as_bytes(policy=SMTP)
    received = message_from_bytes(wire, policy=SMTP)
    assert isinstance(received, EmailMessage)
    return received


@given(TEXT, TEXT)
def test_no_text_adds_a_header_or_a_recipient(subject: str, body: str) -> None:
    """The mail has the headers that it was given, once each, and one recipient."""
    mail = sent(subject, body)
    assert sorted(mail.keys()) == sorted(HEADERS)
    assert (mail["To"], mail["X-Task-ID"]) == ("a@example.com", str(TASK))


@pytest.mark.parametrize("subject", NASTY)
def test_no_known_trick_adds_a_header(subject: str) -> None:
    """Line ends of every kind, encoded ones too, stay in the subject."""
    mail = sent(subject, "body")
    assert sorted(mail.keys()) == sorted(HEADERS)
    assert mail["To"] == "a@example.com"


def test_an_ordinary_subject_and_body_arrive_as_they_were_written() -> None:
    """Chinese, an umlaut and line ends in the body are kept."""
    mail = sent("欢迎, Jörg!", "line 1\nline 2 欢迎\n")
    assert mail["Subject"] == "欢迎, Jörg!"
    assert mail.get_content().replace("\r\n", "\n") == "line 1\nline 2 欢迎\n"


@pytest.mark.parametrize(
    "email", ["a@example.com, b@example.com", "a@example.com\r\nBcc: b@example.com", "a", "a@", "@", ""]
)
def test_refuses_what_is_not_exactly_one_address(email: str) -> None:
    """Also where the job is called without the API in front of it."""
    with pytest.raises(ValueError, match="not exactly one"):
        compose(email, "s", "b", task_id=TASK)
