"""A Locust whose page "Comparison" shows what lies in the file SNAPSHOT: states that a short load does not reach."""

import json
import os
from pathlib import Path
from typing import Any

from locust import User, events, task
from locust.env import Environment
from locust.web import WebUI

from loadtests.webui import add_page


class Idle(User):
    """Does nothing."""

    host = "http://127.0.0.1"

    @task
    def rest(self) -> None:
        """Do nothing."""


def _init(environment: Environment, web_ui: WebUI, **_: Any) -> None:
    add_page(web_ui, lambda: json.loads(Path(os.environ["SNAPSHOT"]).read_text()))
    if environment.parsed_options is not None and environment.parsed_options.web_login:
        assert web_ui.app is not None
        web_ui.app.secret_key = "for the test"
        web_ui.auth_args = {"username_password_callback": "/nowhere"}

        @web_ui.login_manager.user_loader  # type: ignore[untyped-decorator]
        def nobody(_: str) -> None:
            return None


hooks: Any = events
hooks.init.add_listener(_init)
