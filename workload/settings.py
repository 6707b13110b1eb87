"""Settings of the work, read from the environment."""

from functools import cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


class Settings(BaseSettings):
    """Where the work finds its servers and leaves its traces.

    Every field is an environment variable of the same name in capitals, for example ``DATA_DIR``.
    """

    data_dir: Path = Field(default=Path("data"), description="uploads, logs and the journal; shared by API and workers")
    database_url: str = "postgresql://postgres@127.0.0.1:5432/postgres"
    smtp_url: str = "smtp://127.0.0.1:1025"
    journal: bool = Field(
        default=True, description="whether what happens to tasks is written down; off only to measure what that costs"
    )
    allow_crash: bool = Field(default=False, description="whether POST /probe may kill the process it runs in")


@cache
def settings() -> Settings:
    """Return the settings of this process, read once."""
    return Settings()
