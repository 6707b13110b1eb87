"""Schemathesis hooks: work that is asked for is kept short, since 60 s of `async_blocking` would hold up its app."""

from typing import Any

import schemathesis

SHORT_S = 0.01


@schemathesis.hook
def map_body(_context: schemathesis.HookContext, body: Any) -> Any:
    """Return a body whose ``seconds``, where they are valid, are few; what is invalid stays as it is."""
    if isinstance(body, dict):
        seconds = body.get("seconds")
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and SHORT_S < seconds <= 60:
            return {**body, "seconds": SHORT_S}
    return body
