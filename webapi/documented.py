"""What the OpenAPI document announces besides success: one dictionary per kind of endpoint."""

from typing import Any

from workload.schemas import Health, Refusal

Responses = dict[int | str, dict[str, Any]]

_RETRY_AFTER = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}

_UNPARSABLE: Responses = {400: {"model": Refusal, "description": "The body cannot be parsed."}}
_FORBIDDEN: Responses = {403: {"model": Refusal, "description": "Not allowed on this server."}}
_NOT_FOUND: Responses = {404: {"model": Refusal, "description": "There is no such thing."}}
_BAD_KIND: Responses = {415: {"model": Refusal, "description": "Not a kind of document that can be read."}}
_AWAY: Responses = {
    503: {
        "model": Refusal,
        "headers": _RETRY_AFTER,
        "description": "A server it needs is away, and the work was surely not handed over.",
    }
}
_UNKNOWN: Responses = {
    504: {
        "model": Refusal,
        "headers": _RETRY_AFTER,
        "description": "It is not known whether the work was handed over. Only where it goes through a broker.",
    }
}

EVERYWHERE: Responses = {413: {"model": Refusal, "description": "The body is too large; it was not read to its end."}}
"""Any endpoint, also one that takes no body: what declares too large a one is not read."""

WORK: Responses = _UNPARSABLE | _AWAY | _UNKNOWN
"""An endpoint that hands over work."""

UPLOAD: Responses = WORK | _BAD_KIND
PROBE: Responses = WORK | _FORBIDDEN
DOCUMENT: Responses = _NOT_FOUND | _AWAY
CONVERSATIONS: Responses = _AWAY
HEALTH: Responses = {503: {"model": Health, "description": "Something it depends on is down."}}
