"""The jobs as Celery tasks: one line per job."""

import inspect
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import Task

from celery_app import coroutines
from celery_app.worker import app
from workload import jobs
from workload.journal import journaled


def task(job: Callable[..., Any]) -> Task[..., None]:
    """Make a Celery task of a job, under the job's name; the task's id is the one its signature was given."""
    run = journaled(job)

    @app.task(bind=True, name=job.__name__)
    def execute(self: Task[..., None], *args: Any) -> None:
        outcome = run(UUID(self.request.id), *args, then=_later_steps(self))
        if inspect.iscoroutine(outcome):
            coroutines.run(outcome)

    return execute


def _later_steps(running: Task[..., None]) -> list[UUID]:
    """Return the ids of the steps that follow in the chain; Celery carries them last step first."""
    # The stubs call the chain a string; it is a list of signatures.
    steps: Any = running.request.chain or []
    return [UUID(step["options"]["task_id"]) for step in reversed(steps)]


write_log = task(jobs.write_log)
send_email = task(jobs.send_email)
step = task(jobs.step)
async_task = task(jobs.async_task)
process_document = task(jobs.process_document)
log_conversation = task(jobs.log_conversation)
PROBES = {work: task(job) for work, job in jobs.PROBES.items()}
