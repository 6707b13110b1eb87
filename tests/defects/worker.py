"""Celery's worker with a defect: ``celery -A tests.defects.worker worker``."""

from importlib import import_module

from tests.defects.mistreatment import install

install()
app = import_module("celery_app.worker").app
