"""What a status says about the work asked for."""

import pytest

from loadtests.sender import outcome_of


@pytest.mark.parametrize(
    ("status", "retry_after", "outcome"),
    [
        (200, False, "acknowledged"),
        (202, False, "acknowledged"),
        (404, False, "refused"),
        (413, False, "refused"),
        (422, False, "refused"),
        (503, True, "refused"),
        (503, False, "indeterminate"),
        (500, False, "indeterminate"),
        (500, True, "indeterminate"),
        (502, False, "indeterminate"),
        (504, False, "indeterminate"),
        (504, True, "indeterminate"),
        (302, False, "indeterminate"),
    ],
)
def test_a_status_is_a_yes_a_definite_no_or_neither(status: int, retry_after: bool, outcome: str) -> None:
    """A status is a yes a definite no or neither."""
    assert outcome_of(status, retry_after) == outcome
