"""The embedded servers: they come up, are what they should be, and say in one sentence why they do not."""

import os
import signal
import smtplib
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import urlsplit

import psycopg

from lab.stacks.servers import MailSink, Postgres, Redis


def test_redis_answers_and_says_its_version(redis_server: Redis) -> None:
    """Redis answers with its password, and says which product in which version it is."""
    with redis_server.connect() as client:
        assert client.ping()
    assert redis_server.version.split()[0] in {"Redis", "Valkey"}


def test_postgres_gives_empty_databases_with_pgvector(postgres: Postgres) -> None:
    """A database made here is empty, of that name, and can compute with vectors."""
    url = postgres.create_database("servers_test")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute("SELECT '[1,2]'::vector <-> '[1,4]', current_database()").fetchone()
    assert row == (2.0, "servers_test")
    postgres.drop("servers_test")


def test_the_mail_sink_keeps_a_line_per_mail(mail_sink: MailSink) -> None:
    """A mail leaves one line with its task id, its recipients and its decoded subject."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "lab@example.org", "du@example.org", "Grüße 你好"
    message["X-Task-ID"] = "task-1"
    message.set_content("hello")
    address = urlsplit(mail_sink.url)
    with smtplib.SMTP(address.hostname or "", address.port or 0) as client:
        client.send_message(message)
    assert [mail | {"t_ns": 0} for mail in mail_sink.mails() if mail["task_id"] == "task-1"] == [
        {"task_id": "task-1", "t_ns": 0, "to": ["du@example.org"], "subject": "Grüße 你好"}
    ]


def test_private_servers_can_be_killed(make_redis: Callable[[], Redis], make_postgres: Callable[[], Postgres]) -> None:
    """The pid of a private server is its own: SIGKILL there ends it, and the test's end copes with that."""
    for server in (make_redis(), make_postgres()):
        os.kill(server.pid, signal.SIGKILL)
