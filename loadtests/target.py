"""Where the load may go: to this machine, and to hosts that whoever starts it says may be loaded."""

import ipaddress
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


class UsageError(Exception):
    """What the user asked for cannot be done; the message is the one sentence that says so."""


@dataclass(frozen=True, slots=True)
class Target:
    """A server that may be loaded: ``authority`` as the Host header names it, and its addresses to try in order."""

    authority: str
    addresses: Sequence[tuple[socket.AddressFamily, Any]]


def permitted_target(host: str | None, may_load: Sequence[str] = (), option: str = "--host") -> Target:
    """Return the server that ``option`` names; ``may_load`` are names of hosts that may be loaded besides this machine.

    Raises UsageError where it is missing, no URL, or any other machine.
    """
    if not host:
        raise UsageError("--host is missing: name the server to load, for example --host http://127.0.0.1:8000.")
    try:
        url = urlsplit(host)
        name, port = url.hostname, url.port or 80
    except ValueError as error:
        raise UsageError(f"{option} {host} is not a URL: {error}.") from error
    if url.scheme != "http" or not name or url.path not in ("", "/") or url.query or url.fragment:
        raise UsageError(f"{option} {host} must look like http://127.0.0.1:8000.")
    permitted = name in {one.lower() for one in may_load}
    if not permitted and not _is_loopback(name):
        raise UsageError(
            f"{option} {host} is not this machine: besides 127.0.0.0/8, localhost and ::1 only what --i-may-load names "
            "is loaded."
        )
    shown = f"[{name}]" if ":" in name else name
    return Target(f"{shown}:{port}", _addresses(name, port, permitted, option))


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _addresses(name: str, port: int, anywhere: bool, option: str) -> Sequence[tuple[socket.AddressFamily, Any]]:
    """Return the addresses of a name; those of a loopback name that a hosts file points elsewhere are left out."""
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{option}: {name} cannot be resolved: {error}.") from error
    addresses = [(family, address) for family, *_, address in found if anywhere or _is_loopback(str(address[0]))]
    if not addresses:
        raise UsageError(f"{option}: on this machine {name} does not mean this machine.")
    return addresses
