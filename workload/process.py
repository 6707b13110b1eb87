"""What every process that runs jobs or answers chats does once, before its first request or task."""

from workload import embeddings, extract
from workload.journal import open_journal
from workload.settings import settings


def prepare(service: str) -> None:
    """Make DATA_DIR with its ``uploads``, open the journal under the service's name, and load model and parsers.

    A forked child (Celery's prefork) calls it again: its journal is its own, what is loaded it shares with its parent.
    Raises OSError if DATA_DIR cannot be written.
    """
    (settings().data_dir / "uploads").mkdir(parents=True, exist_ok=True)
    open_journal(service)
    embeddings.load()
    extract.load()
