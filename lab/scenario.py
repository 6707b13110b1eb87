"""Scenarios: what load a block is put under, read from ``scenarios/*.toml``."""

import tomllib
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab.errors import UsageError
from lab.rundir import ScenarioRecord

Work = Literal["io", "blocking", "cpu", "async_blocking", "fail"]
Seconds = Annotated[float, Field(ge=0, le=60)]
Rate = Annotated[float, Field(gt=0, le=10_000, description="requests per second")]
Model = TypeVar("Model", bound=BaseModel)


def _each_once(values: list[Any]) -> list[Any]:
    as_in_a_name = {value if isinstance(value, str) else f"{value:g}" for value in values}
    if len(as_in_a_name) < len(values):
        raise ValueError("each value must be there once")
    return values


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
    rate: Rate
    arrivals: Literal["poisson", "constant"] = "poisson"
    warmup_s: float = Field(default=2.0, ge=0, le=600)
    duration_s: float = Field(gt=0, le=86_400)
    horizon_s: float | None = Field(default=None, gt=0, le=3_600)
    probe_work: Work | None = None
    probe_seconds: Seconds | None = None
    requests: list[Request] = []
    bystanders: bool = True

    @model_validator(mode="after")
    def _requests_are_for_the_users_of_that_name(self) -> Self:
        if (self.users == "requests") != bool(self.requests):
            raise ValueError('[[requests]] and users = "requests" go together')
        return self


class Grid(BaseModel):
    """The ``[grid]`` of a scenario: it is one for each combination of these, in place of one alone."""

    model_config = ConfigDict(extra="forbid")

    probe_work: Annotated[list[Work], Field(min_length=1), AfterValidator(_each_once)]
    probe_seconds: Annotated[list[Seconds], Field(min_length=1), AfterValidator(_each_once)]
    rate: Annotated[list[Rate], Field(min_length=1), AfterValidator(_each_once)]


def load_scenarios(folder: Path) -> dict[str, ScenarioRecord]:
    """Return every scenario of a folder by name, of a grid each cell. Raises UsageError naming file and wrong key."""
    found = {one.name: one for path in sorted(folder.glob("*.toml")) for one in _load(path)}
    if not found:
        raise UsageError(f"{folder} holds no scenario: there is no *.toml in it.")
    return found


def choices(scenarios: Iterable[ScenarioRecord]) -> dict[str, list[ScenarioRecord]]:
    """Return what one can ask for by name: a scenario, or a grid with all its cells."""
    found: dict[str, list[ScenarioRecord]] = {}
    for scenario in scenarios:
        found.setdefault(scenario.grid or scenario.name, []).append(scenario)
    return found


def _load(path: Path) -> Iterator[ScenarioRecord]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}.") from error
    if "grid" in table:
        yield from _cells(path, table, _checked(Grid, path, table.pop("grid"), "grid"))
    else:
        yield ScenarioRecord(name=path.stem, **_checked(Scenario, path, table).model_dump())


def _cells(path: Path, table: dict[str, Any], grid: Grid) -> Iterator[ScenarioRecord]:
    """Yield the scenarios of a grid, each named after its cell: ``crossover-io-0.5s-8``."""
    if twice := sorted(table.keys() & Grid.model_fields.keys()):
        raise UsageError(f"{path}: '{twice[0]}': a scenario with a [grid] has it there.")
    for work, seconds, rate in product(grid.probe_work, grid.probe_seconds, grid.rate):
        cell = {"probe_work": work, "probe_seconds": seconds, "rate": rate}
        scenario = _checked(Scenario, path, table | cell)
        if scenario.users != "probe":
            raise UsageError(f"{path}: 'users': a [grid] is for the users \"probe\".")
        name = f"{path.stem}-{work}-{seconds:g}s-{rate:g}"
        yield ScenarioRecord(name=name, grid=path.stem, **scenario.model_dump())


def _checked(model: type[Model], path: Path, table: object, *inside: str) -> Model:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in (*inside, *first["loc"]))
        raise UsageError(f"{path}: '{key}': {first['msg'].removeprefix('Value error, ')}.") from error
