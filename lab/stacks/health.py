"""Whether an API says that it can do work."""

import http
import http.client
from urllib.parse import urlsplit

from lab.stacks.supervisor import StackError

HEALTH_TIMEOUT_S = 5.0


def check_health(url: str) -> None:
    """Raise StackError unless the URL answers 200; OSError where there is no answer."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", parts.path)
        answer = connection.getresponse()
        body = answer.read().decode(errors="replace")
    except http.client.HTTPException as error:
        raise StackError(f"GET {parts.path}: {error!r}") from error
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise StackError(f"GET {parts.path} says {answer.status} {body[:200]}")
