"""The ids that a request causes."""

from uuid import UUID, uuid5

from workload.ids import document_id, task_ids

REQUEST = UUID("6f1c2b8e-8f3e-4f3c-9a53-0f0f5f0d5c11")


def test_a_client_can_compute_every_id_from_its_request_id() -> None:
    """The ids are the contract's, in order."""
    assert task_ids(REQUEST, 3) == [uuid5(REQUEST, "0"), uuid5(REQUEST, "1"), uuid5(REQUEST, "2")]
    assert document_id(REQUEST) == uuid5(REQUEST, "document")
