"""The Celery app: ``celery -A celery_app.worker worker``. Celery's defaults, but for what is said here."""

import os
from typing import Any

from celery import Celery, signals
from celery.concurrency.thread import TaskPool as Threads

from celery_app import coroutines
from workload import process

app = Celery("celery_app", broker=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"), include=["celery_app.tasks"])
app.conf.update(
    # BackgroundTasks have no results either.
    task_ignore_result=True,
    # What Celery does anyway, said aloud: it warns where it is left open.
    broker_connection_retry_on_startup=True,
    # Where children are spawned and not forked, each loads the model before it reports for work; Celery's 4 s are
    # short when several do so on one CPU.
    worker_proc_alive_timeout=60,
)


@signals.worker_init.connect
def _start_worker(**_signal: Any) -> None:
    """Prepare the worker's own process: for its threads, or for the children that will share the model by forking."""
    process.prepare("celery-worker")


@signals.celeryd_after_setup.connect
def _start_threads(instance: Any, **_signal: Any) -> None:
    """Prepare the slots of a pool of threads; those of other pools are prepared in their own process."""
    if issubclass(instance.pool_cls, Threads):
        coroutines.open_loops(instance.concurrency)


@signals.worker_process_init.connect
def _start_child(**_signal: Any) -> None:
    """Prepare a prefork child, or the one slot of solo: journal, event loop and database connection of its own."""
    process.prepare("celery-worker")
    coroutines.open_loops(1)


@signals.worker_process_shutdown.connect
@signals.worker_shutdown.connect
def _end(**_signal: Any) -> None:
    coroutines.close()
