"""The locustfile, with its live figures at ``/live``."""

from typing import Any

from flask import Response, jsonify
from locust import events
from locust.web import WebUI

from loadtests.locustfile import OneArrivalPerSecond

__all__ = ["OneArrivalPerSecond"]


def _show(web_ui: WebUI | None, **_: Any) -> None:
    if web_ui is None or web_ui.app is None:
        return
    live = web_ui.app.extensions["live"]

    def snapshot() -> Response:
        return jsonify(live.snapshot())

    web_ui.app.add_url_rule("/live", "live", snapshot)


hooks: Any = events
hooks.init.add_listener(_show)
