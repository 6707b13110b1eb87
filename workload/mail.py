"""Mail by real SMTP, with the task id in a header; user input can add neither a header nor a recipient."""

import re
import smtplib
from contextlib import suppress
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import localtime
from urllib.parse import urlsplit
from uuid import UUID

from workload.settings import settings

SENDER = "noreply@example.com"
TIMEOUT_S = 5.0  # for each step of the conversation with the mail server


def compose(email: str, subject: str, body: str, *, task_id: UUID) -> EmailMessage:
    """Return the mail to send. Raises ValueError if ``email`` is not exactly one address."""
    mail = EmailMessage()
    mail["From"] = SENDER
    mail["To"] = _one_address(email)
    mail["Subject"] = _one_line(subject)
    mail["Date"] = localtime()
    mail["X-Task-ID"] = str(task_id)
    mail.set_content(body)
    return mail


def send(mail: EmailMessage) -> None:
    """Hand a mail to the server at ``SMTP_URL``. Raises OSError (``SMTPException`` is one) if it does not take it."""
    server = urlsplit(settings().smtp_url)
    # A given local_hostname spares the look-up of this machine's own name, which may hang.
    smtp = smtplib.SMTP(server.hostname or "", server.port or 25, local_hostname="localhost", timeout=TIMEOUT_S)
    try:
        smtp.send_message(mail)
        # The server has the mail now: a broken goodbye must not make a failure of it.
        with suppress(OSError):
            smtp.quit()
    finally:
        smtp.close()


def _one_address(email: str) -> Address:
    try:
        return Address(addr_spec=email)
    except (ValueError, IndexError, MessageError) as error:  # what the parser comes upon
        raise ValueError(f"{email!r} is not exactly one mail address") from error


def _one_line(text: str) -> str:
    """Return text as a header can hold it: control characters and line ends become spaces.

    ``=?`` opens an encoded word, in which a line end could hide until the header is folded; it is taken apart.
    """
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).replace("=?", "= ?")
