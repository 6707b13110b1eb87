"""The ids a request may cause: fixed by its request id, so that a client without an answer still knows them."""

from uuid import UUID, uuid5


def task_ids(request_id: UUID, count: int) -> list[UUID]:
    """Return the ids of the tasks of a request, in order: ``uuid5(request_id, "0")``, ``"1"``, …."""
    return [uuid5(request_id, str(number)) for number in range(count)]


def document_id(request_id: UUID) -> UUID:
    """Return the id of the document that a request uploads."""
    return uuid5(request_id, "document")
