"""How long a container is waited for that does not come up, and what is said then."""

import pytest

from lab.stacks import compose
from lab.stacks.containers import Containers
from lab.stacks.supervisor import StackError


def test_a_container_that_never_answers_is_given_up_by_a_sentence_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compose, "UP_WITHIN_S", 0.2)

    def ask() -> None:
        raise StackError("it answers 503 Service Unavailable.")

    with pytest.raises(StackError, match=r"^inline-api was not up within 0.2 s \(it answers 503 Service Unavailable\)"):
        compose.wait_until_up("inline-api", Containers({}), ask)


def test_a_container_whose_end_was_seen_is_not_waited_for() -> None:
    watch = Containers({})

    def ask() -> None:
        watch.records.append({"event": "ended", "kind": "container", "name": "inline-api"})
        raise ConnectionRefusedError

    with pytest.raises(StackError, match=r"^The container of inline-api ended before it was up; see its log\.$"):
        compose.wait_until_up("inline-api", watch, ask)


def test_a_process_that_ends_in_a_container_that_goes_on_is_no_end() -> None:
    """PostgreSQL's first start has many of them."""
    watch = Containers({})
    watch.records.append({"event": "ended", "kind": "inside", "name": "postgres"})
    answers = iter([ConnectionRefusedError(), None])

    def ask() -> str:
        if error := next(answers):
            raise error
        return "17.0"

    assert compose.wait_until_up("postgres", watch, ask) == "17.0"
