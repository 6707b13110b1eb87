"""The page "Comparison" in Locust's web UI: what is seen of each contender, side by side, while the load runs.

The page holds no state of its own: it asks once a second, so that any number of browsers show the same. Where `lab up`
is behind it, the lab's control API adds what became of the tasks, and does faults; its token stays in this process.
"""

import json
import os
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from flask import Blueprint, Response, jsonify, request
from locust.web import WebUI

STATIC = Path(__file__).parent / "static"
FILES = {
    "/comparison": ("comparison.html", "text/html"),
    "/comparison/comparison.js": ("comparison.js", "text/javascript"),
    "/comparison/comparison.css": ("comparison.css", "text/css"),
}
ANSWER_WITHIN_S = 5
# Tasks are waited for, and a report is made.
SAVED_WITHIN_S = 120
View = Callable[..., Any]
LINK = """
<a href="{base}/comparison" style="position:fixed;right:16px;bottom:16px;z-index:2000;padding:10px 16px;
border-radius:6px;background:#15803d;color:#fff;
font:600 14px Roboto,system-ui,sans-serif;text-decoration:none">Comparison</a>
"""


class LabControl:
    """The control API of `lab up`, as a client. Where the environment names none, there is none."""

    def __init__(self) -> None:
        self._url = os.environ.get("LAB_CONTROL_URL")
        # Taken out, so that nothing that Locust starts or shows has it.
        self._token = os.environ.pop("LAB_CONTROL_TOKEN", "")

    @property
    def exists(self) -> bool:
        """Return whether a lab is behind this web UI."""
        return self._url is not None

    def ask(self, path: str, body: object = None, within_s: float = ANSWER_WITHIN_S) -> tuple[int, dict[str, Any]]:
        """Return status and JSON of an answer: 503 and a message where the lab does not answer."""
        asked = Request(  # noqa: S310 - the lab's own address
            f"{self._url}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Lab-Token": self._token, "Content-Type": "application/json"},
        )
        try:
            with urlopen(asked, timeout=within_s) as answer:  # noqa: S310
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)
        except (URLError, OSError, ValueError):
            return HTTPStatus.SERVICE_UNAVAILABLE, {"message": "The lab behind this page does not answer."}


def add_page(web_ui: WebUI, snapshot: Callable[[], dict[str, Any]]) -> None:
    """Add the page at ``/comparison``, behind the same login as all else, and a link to it on Locust's own page.

    ``snapshot`` returns what is shown, in the shape of docs/web-ui.md.
    """
    lab = LabControl()
    pages = Blueprint("comparison", __name__)
    protected: Callable[[View], View] = web_ui.auth_required_if_enabled

    for path, (name, kind) in FILES.items():
        pages.add_url_rule(path, name.replace(".", "_"), protected(partial(_static, name, kind)))

    @pages.route("/comparison/state")
    @protected
    def state() -> Response:
        status, said = lab.ask("/state") if lab.exists else (HTTPStatus.OK, None)
        lost = status != HTTPStatus.OK
        # Not by jsonify, which would sort the contenders.
        text = json.dumps({"load": snapshot(), "lab": None if lost else said, "lab_lost": lost})
        return Response(text, mimetype="application/json", headers={"Cache-Control": "no-store"})

    @pages.route("/comparison/fault", methods=["POST"])
    @protected
    def fault() -> tuple[Response, int]:
        return pass_on("/fault", ANSWER_WITHIN_S)

    @pages.route("/comparison/save", methods=["POST"])
    @protected
    def save() -> tuple[Response, int]:
        return pass_on("/save", SAVED_WITHIN_S)

    @pages.route("/comparison/report/<run>")
    @protected
    def report(run: str) -> tuple[Response, int]:
        said = lab.ask("/state")[1] if lab.exists else {}
        file = next((Path(one["report"]) for one in said.get("saved", []) if one["run"] == run), None)
        if file is None or not file.exists():
            return Response(f"No report of {run} was saved here.", mimetype="text/plain"), HTTPStatus.NOT_FOUND
        return Response(file.read_text(encoding="utf-8"), mimetype="text/html"), HTTPStatus.OK

    def pass_on(path: str, within_s: float) -> tuple[Response, int]:
        """Pass a request of the page on to the lab."""
        if not lab.exists:
            return jsonify({"message": "No lab is behind this page."}), HTTPStatus.NOT_FOUND
        if not request.is_json:  # which no form of another site can send
            return jsonify({"message": "Expected JSON."}), HTTPStatus.UNSUPPORTED_MEDIA_TYPE
        status, said = lab.ask(path, request.get_json(silent=True) or {}, within_s)
        return jsonify(said), status

    assert web_ui.app is not None
    base = web_ui.app.blueprints["locust"].url_prefix or ""  # --web-base-path
    link = LINK.format(base=base)

    def add_link(answer: Response) -> Response:
        """Put the link on Locust's own page, by its HTML.

        The documented way would be ``extended_tabs``: but those hold tables whose cells are text, no links, and are
        not there before the first load.
        """
        if request.endpoint == "locust.index" and answer.status_code == HTTPStatus.OK:
            answer.set_data(answer.get_data(as_text=True).replace("</body>", f"{link}</body>"))
        return answer

    web_ui.app.after_request(add_link)
    web_ui.app.register_blueprint(pages, url_prefix=base or None)


def _static(name: str, kind: str) -> Response:
    return Response((STATIC / name).read_text(encoding="utf-8"), mimetype=kind)
