"""The two apps' routes differ in the dispatch lines only, and announce the same."""

import difflib
import re
from pathlib import Path
from typing import Any

import celery_app.main
import inline_app.main
from lab.environment import PROJECT

MOST_CHANGED_LINES = 40

# What a dispatch line is made of: the imports of it, the parameter, the call, and what health asks besides.
DISPATCH = re.compile(
    r'^"""Every endpoint|^from (celery|celery_app|fastapi|workload\.journal)\b.* import |background: BackgroundTasks,$'
    r"|background\.add_task\(|await publish\(|step_\d = tasks\.step\.si\(|health\.report\("
)


def changed_lines(one: str, other: str) -> list[str]:
    """Return the lines of a diff, counting both sides, without their marks."""
    diff = difflib.unified_diff(one.splitlines(), other.splitlines(), n=0, lineterm="")
    return [line[1:] for line in diff if line[0] in "+-" and not line.startswith(("+++", "---"))]


def source(app: str) -> str:
    return Path(PROJECT, app, "routes.py").read_text()


def undispatched(lines: list[str]) -> list[str]:
    return [line for line in lines if not DISPATCH.search(line.strip())]


def test_the_routes_differ_by_at_most_forty_lines() -> None:
    changed = changed_lines(source("inline_app"), source("celery_app"))
    assert 0 < len(changed) <= MOST_CHANGED_LINES


def test_the_routes_differ_in_dispatch_lines_only() -> None:
    assert undispatched(changed_lines(source("inline_app"), source("celery_app"))) == []


def test_a_difference_that_is_no_dispatch_is_found() -> None:
    tampered = source("celery_app").replace('message="A mail is on its way."', 'message="Done."')
    assert len(undispatched(changed_lines(source("inline_app"), tampered))) == 2


def without_title(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "info": {**document["info"], "title": ""}}


def test_the_openapi_documents_are_equal_but_for_the_title() -> None:
    inline, celery = inline_app.main.app.openapi(), celery_app.main.app.openapi()
    assert inline["info"]["title"] != celery["info"]["title"]
    assert without_title(inline) == without_title(celery)


def test_the_contract_s_routes_are_all_there() -> None:
    paths = inline_app.main.app.openapi()["paths"]
    assert {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods} == {
        "POST /action", "POST /register", "POST /multi-tasks", "POST /async-task", "POST /upload",
        "GET /documents/{document_id}", "POST /chat", "GET /conversations/{user_id}", "POST /probe",
        "GET /ping/loop", "GET /ping/thread", "GET /health",
    }  # fmt: skip


def test_every_endpoint_is_a_coroutine_but_the_one_that_tests_the_threads() -> None:
    for app in ("inline_app", "celery_app"):
        assert re.findall(r"^def (\w+)", source(app), re.MULTILINE) == ["ping_thread"]
