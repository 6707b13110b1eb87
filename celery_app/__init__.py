"""The API whose work is dispatched to Celery workers over Redis."""
