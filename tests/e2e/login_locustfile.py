"""The lab's load behind a login: Locust's own way, as docs/web-ui.md shows it."""

import os
from typing import Any

from flask import redirect, request
from flask_login import UserMixin, login_user  # type: ignore[import-untyped]
from locust import events
from locust.env import Environment
from locust.web import WebUI
from werkzeug.wrappers import Response

from loadtests.locustfile import OneArrivalPerSecond as OneArrivalPerSecond


class Person(UserMixin):  # type: ignore[misc]
    """The only one who may come in."""

    id = "person"


def _set_up_login(environment: Environment, web_ui: WebUI, **_: Any) -> None:
    assert web_ui.app is not None
    web_ui.app.secret_key = os.environ["WEB_SECRET_KEY"]
    web_ui.login_manager.user_loader(lambda _: Person())
    web_ui.auth_args = {"username_password_callback": "/let-me-in"}

    @web_ui.app.route("/let-me-in", methods=["POST"])
    def let_in() -> Response:
        if request.form["password"] == os.environ["WEB_PASSWORD"]:
            login_user(Person())
        return redirect("/")


hooks: Any = events
hooks.init.add_listener(_set_up_login)
