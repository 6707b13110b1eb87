"""Contenders: the file of the repository, and every way to get such a file wrong."""

import sys
from pathlib import Path

import pytest

from lab.contenders import fill, load_contenders
from lab.environment import PROJECT
from lab.errors import UsageError

GOOD = 'title = "A"\nslots = "1"\napi = ["serve", "{port}"]\n'
RUNS = 'title = "A"\nslots = "1"\nurl = "http://127.0.0.1:8000"\n'


def test_what_runs_already_has_a_journal_where_its_data_is_known(tmp_path: Path) -> None:
    """Its folder is looked for beside the file."""
    path = tmp_path / "contenders.toml"
    path.write_text(f'[seen]\n{RUNS}data = "their/data"\n[unseen]\n{RUNS}')
    seen, unseen = load_contenders(path).values()
    assert (seen.journal, seen.data) == (True, str(tmp_path / "their" / "data"))
    assert (unseen.journal, unseen.data) == (False, None)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "http://[::1]:80/", "http://my-app.example.org:8000"])
def test_the_address_of_a_server_may_be_of_any_kind(tmp_path: Path, url: str) -> None:
    """With a port and without, by name and by number."""
    path = tmp_path / "contenders.toml"
    path.write_text(f"[a]\n{RUNS.replace('http://127.0.0.1:8000', url)}")
    assert load_contenders(path)["a"].url == url


def test_the_repositorys_own_contenders() -> None:
    """Those of the comparison are there; only Celery's have workers and a broker."""
    known = load_contenders(PROJECT / "contenders.toml")
    assert list(known) == ["inline", "inline-workers", "celery", "celery-threads", "celery-naive"]
    for name, one in known.items():
        assert (bool(one.workers), one.broker) == ((True, "redis") if "celery" in name else (False, None))


def test_celery_naive_is_celery_but_for_how_it_publishes() -> None:
    known = load_contenders(PROJECT / "contenders.toml")
    naive, celery = (known[name].model_dump(exclude={"name", "title"}) for name in ("celery-naive", "celery"))
    assert naive.pop("env") == {"NAIVE_PUBLISH": "1"}
    assert naive == {key: value for key, value in celery.items() if key != "env"}


@pytest.mark.parametrize(("cpus", "processes"), [(1, "2"), (2, "2"), (8, "8")])
def test_several_processes_are_as_many_as_cpus_and_never_one(cpus: int, processes: str) -> None:
    """With one CPU, as with any number, it is another contender than `inline`."""
    known = load_contenders(PROJECT / "contenders.toml")
    several, one = (fill(known[name].api, port=8000, cpus=cpus) for name in ("inline-workers", "inline"))
    assert several == [*one, "--workers", processes]


def test_placeholders_are_filled() -> None:
    """Interpreter, port, CPUs and threads take the places of their names; other braces stay."""
    command = ["{python}", "--port={port}", "-c", "{cpus}", "{threads}", '{"a": 1}']
    assert fill(command, port=8000, cpus=2) == [sys.executable, "--port=8000", "-c", "2", "40", '{"a": 1}']


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[a\n", "contenders.toml is not TOML: "),
        ("", "contenders.toml describes no contender."),
        ("a = 3\n", "contenders.toml: 'a': Input should be"),
        (f"[A_b]\n{GOOD}", "contenders.toml: 'A_b': a contender's name"),
        (f'["../up"]\n{GOOD}', "contenders.toml: '../up': a contender's name"),
        ("[a]\n" + GOOD.replace("title", "titel"), "contenders.toml: 'a.title': Field required"),
        (f"[a]\n{GOOD}speed = 3\n", "contenders.toml: 'a.speed': Extra inputs are not permitted."),
        ("[a]\n" + GOOD.replace("{port}", "8000"), "contenders.toml: 'a.api': the command must say {port}."),
        ("[a]\n" + GOOD.replace("serve", "{pyhton}"), "contenders.toml: 'a.api': {pyhton} is none of {python}, "),
        (f"[a]\n{GOOD}workers = [[]]\n", "contenders.toml: 'a.workers': a command must not be empty."),
        (f'[a]\n{GOOD}workers = [["{{core}}"]]\n', "contenders.toml: 'a.workers': {core} is none of "),
        (f'[a]\n{GOOD}workers = ["run"]\n', "contenders.toml: 'a.workers.0': Input should be a valid list"),
        (f'[a]\n{GOOD}broker = "rabbitmq"\n', "contenders.toml: 'a.broker': Input should be 'redis'"),
        ('[a]\ntitle = "A"\nslots = "1"\n', "contenders.toml: 'a': give the command of its `api`, or the `url`"),
        (f'[a]\n{GOOD}url = "http://127.0.0.1:1"\n', "contenders.toml: 'a': give the command of its `api`, or"),
        (f'[a]\n{RUNS}env = {{A = "1"}}\n', "contenders.toml: 'a': `env` is for what the lab starts"),
        (f'[a]\n{GOOD}data = "data"\n', "contenders.toml: 'a': `data` is for what runs already"),
        (f'[a]\n{RUNS}health = "up"\n', "contenders.toml: 'a.health': String should match"),
        (f"[a]\n{RUNS.replace('http:', 'https:')}", "contenders.toml: 'a.url': must look like http://127.0.0.1:8000."),
        *(
            (f"[a]\n{RUNS.replace('127.0.0.1:8000', wrong)}", "contenders.toml: 'a.url': must look like http://")
            for wrong in ("127.0.0.1:99999", "127.0.0.1:abc", "[::1", ":80", "a..b", "a\\u0000b")
        ),
        (f'[a]\n{RUNS}health = "/bereit\\u00df"\n', "contenders.toml: 'a.health': String should match"),
        (f'[a]\n{GOOD}env = {{REDIS_URL = "x"}}\n', "contenders.toml: 'a.env': REDIS_URL is set by the lab."),
    ],
)
def test_what_is_wrong_is_named_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    """The message names the file and the key, and is one line."""
    path = tmp_path / "contenders.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_contenders(path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/{says}")
    assert message.endswith(".")
    assert "\n" not in message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """It is said, and not a traceback."""
    with pytest.raises(UsageError, match=r"none\.toml cannot be read: No such file or directory\.$"):
        load_contenders(tmp_path / "none.toml")
