"""The work both apps do. It knows neither BackgroundTasks nor Celery nor the lab."""
