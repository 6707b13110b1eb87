"""Scenarios: what load a block is put under, read from ``scenarios/*.toml``."""

import tomllib
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab.errors import UsageError
from lab.rundir import ScenarioRecord


class Request(BaseModel):
    """One ``[[requests]]`` of a scenario that describes its own."""

    model_config = ConfigDict(extra="forbid")

    method: Literal["GET", "POST"] = "GET"
    path: str = Field(pattern=r"^/[!-~]*$")
    weight: int = Field(default=1, ge=1, le=1_000_000)
    body: dict[str, Any] | None = None
    tasks: int = Field(default=0, ge=0, le=100)


class Scenario(BaseModel):
    """One TOML file of ``scenarios/``; the file's name is the scenario's. ``users`` are those of loadtests/users.py."""

    model_config = ConfigDict(extra="forbid")

    description: str
    users: Literal["action", "register", "multi-tasks", "async-task", "upload", "chat", "probe", "mixed", "requests"]
    rate: float = Field(gt=0, le=10_000, description="requests per second")
    arrivals: Literal["poisson", "constant"] = "poisson"
    warmup_s: float = Field(default=2.0, ge=0, le=600)
    duration_s: float = Field(gt=0, le=86_400)
    probe_work: Literal["io", "blocking", "cpu", "async_blocking", "fail"] | None = None
    probe_seconds: float | None = Field(default=None, ge=0, le=60)
    requests: list[Request] = []
    bystanders: bool = True

    @model_validator(mode="after")
    def _requests_are_for_the_users_of_that_name(self) -> Self:
        if (self.users == "requests") != bool(self.requests):
            raise ValueError('[[requests]] and users = "requests" go together')
        return self


def load_scenarios(folder: Path) -> dict[str, ScenarioRecord]:
    """Return every scenario of a folder by name. Raises UsageError naming the file and the key that is wrong."""
    return {path.stem: _load(path) for path in sorted(folder.glob("*.toml"))}


def _load(path: Path) -> ScenarioRecord:
    try:
        scenario = Scenario.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: '{key}': {first['msg']}.") from error
    return ScenarioRecord(name=path.stem, **scenario.model_dump())
