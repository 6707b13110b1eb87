"""The API whose work runs in its own process, by FastAPI's BackgroundTasks."""
