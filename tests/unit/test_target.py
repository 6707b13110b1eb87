"""Where the load may go: this machine, whatever is typed, and what it is said that one may load."""

import pytest

from loadtests.target import UsageError, permitted_target


@pytest.mark.parametrize(
    ("host", "authority"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://127.9.8.7:1", "127.9.8.7:1"),
        ("http://localhost:8000/", "localhost:8000"),
        ("http://LOCALHOST", "localhost:80"),
        ("http://[::1]:8000", "[::1]:8000"),
    ],
)
def test_loopback_may_be_loaded(host: str, authority: str) -> None:
    """Loopback may be loaded."""
    target = permitted_target(host)
    assert target.authority == authority
    assert target.addresses


@pytest.mark.parametrize(
    "host",
    [
        "http://192.0.2.1:8000",
        "http://0.0.0.0:8000",
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://127.0.0.1@example.com",
        "http://localhost.example.com:80",
        "http://[::ffff:192.0.2.1]:80",
        "http://2130706433:80",
    ],
)
def test_any_other_machine_is_refused(host: str) -> None:
    """Any other machine is refused."""
    with pytest.raises(UsageError, match="not this machine"):
        permitted_target(host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "localhost:8000",
        "https://127.0.0.1",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://127.0.0.1/api",
        "ftp://127.0.0.1",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(host: str | None) -> None:
    """What is no address of a server is refused."""
    with pytest.raises(UsageError, match="--host"):
        permitted_target(host)


def test_what_one_says_one_may_load_may_be_loaded() -> None:
    """By exactly that name; a name that resolves to nothing is refused all the same."""
    target = permitted_target("http://192.0.2.1:8000", ["192.0.2.1"])
    assert [address[0] for _, address in target.addresses] == ["192.0.2.1"]
    with pytest.raises(UsageError, match="not this machine"):
        permitted_target("http://192.0.2.2:8000", ["192.0.2.1"])
    with pytest.raises(UsageError, match="cannot be resolved"):
        permitted_target("http://no-such-host.invalid:8000", ["no-such-host.invalid"])


def test_a_name_that_no_host_can_have_is_refused() -> None:
    """Even one that may be loaded."""
    with pytest.raises(UsageError, match="cannot be resolved"):
        permitted_target("http://a..b", ["a..b"])
