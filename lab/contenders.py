"""Contenders: what is compared, read from ``contenders.toml``."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lab.errors import UsageError
from lab.rundir import ContenderRecord

# As many threads as anyio gives to what FastAPI runs outside the event loop.
THREADS = 40
# With one, uvicorn starts no processes: it would be the contender without them again.
LEAST_PROCESSES = 2

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_KNOWN = ["python", "port", "cpus", "threads", "processes"]
_SET_BY_THE_LAB = {"DATA_DIR", "DATABASE_URL", "SMTP_URL", "REDIS_URL"}


class Contender(BaseModel):
    """One table of ``contenders.toml``; the table's name is the contender's."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1)
    api: list[str] = []
    url: str | None = None
    health: str = Field(default="/health", pattern=r"^/[!-~]*$")
    data: str | None = None
    journal: bool = True
    workers: list[list[str]] = []
    broker: Literal["redis"] | None = None
    env: dict[str, str] = {}
    slots: str = Field(min_length=1)

    @field_validator("api")
    @classmethod
    def _listens_where_it_is_told(cls, api: list[str]) -> list[str]:
        if api and not any("{port}" in part for part in api):
            raise ValueError("the command must say {port}")
        return _check_placeholders(api)

    @field_validator("url")
    @classmethod
    def _is_the_address_of_a_server(cls, url: str | None) -> str | None:
        if url is not None and not (re.fullmatch(r"http://[^/\s?#@]+/?", url) and _has_an_authority(url)):
            raise ValueError("must look like http://127.0.0.1:8000")
        return url

    @model_validator(mode="after")
    def _is_started_or_runs(self) -> Self:
        if bool(self.api) == (self.url is not None):
            raise ValueError("give the command of its `api`, or the `url` where it runs already")
        started = [name for name in ("workers", "broker", "env") if getattr(self, name)]
        if self.url and started:
            raise ValueError(f"`{started[0]}` is for what the lab starts, and this one has a `url`")
        if self.api and self.data:
            raise ValueError("`data` is for what runs already: the lab gives DATA_DIR to what it starts")
        return self

    @field_validator("workers")
    @classmethod
    def _workers_are_commands(cls, workers: list[list[str]]) -> list[list[str]]:
        if not all(workers):
            raise ValueError("a command must not be empty")
        return [_check_placeholders(worker) for worker in workers]

    @field_validator("env")
    @classmethod
    def _leaves_the_labs_variables_alone(cls, env: dict[str, str]) -> dict[str, str]:
        for name in _SET_BY_THE_LAB & env.keys():
            raise ValueError(f"{name} is set by the lab")
        return env


def _has_an_authority(url: str) -> bool:
    """Return whether a URL has a host that can be looked up, and a port, if it has one, that can be."""
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:  # also what cannot be encoded is one
        return False
    return bool(host) and host.decode().isprintable()


def _check_placeholders(command: list[str]) -> list[str]:
    for name in _PLACEHOLDER.findall(" ".join(command)):
        if name not in _KNOWN:
            known = ", ".join(f"{{{one}}}" for one in _KNOWN)
            raise ValueError(f"{{{name}}} is none of {known}")
    return command


def load_contenders(path: Path) -> dict[str, ContenderRecord]:
    """Return every contender of a file by name, in its order. Raises UsageError naming the file and the wrong key."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    if not tables:
        raise UsageError(f"{path} describes no contender.")
    return {name: _load(path, name, table) for name, table in tables.items()}


def _load(path: Path, name: str, table: object) -> ContenderRecord:
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(f"{path}: '{name}': a contender's name is made of small letters, digits and single hyphens.")
    try:
        contender = Contender.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (name, *first["loc"]))
        raise UsageError(f"{path}: '{key}': {first['msg'].removeprefix('Value error, ')}.") from error
    fields = contender.model_dump() | {"journal": contender.journal and (contender.url is None or bool(contender.data))}
    if contender.data:
        fields["data"] = str((path.parent / contender.data).resolve())
    return ContenderRecord(name=name, folder=str(path.parent.resolve()), **fields)


def fill(command: list[str], port: int, cpus: int) -> list[str]:
    """Return a command with its placeholders replaced, for a port and a number of CPUs."""
    numbers = {"port": port, "cpus": cpus, "threads": THREADS, "processes": max(LEAST_PROCESSES, cpus)}
    values = {"python": sys.executable} | {name: str(number) for name, number in numbers.items()}
    return [_PLACEHOLDER.sub(lambda match: values[match[1]], part) for part in command]
