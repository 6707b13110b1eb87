"""The options of the load, on the command line and in the start form of the web UI."""

import math
import os
import re
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError, model_validator

from loadtests.arrivals import ArrivalKind
from loadtests.target import UsageError
from loadtests.users import ProbeWork, ScenarioName

if TYPE_CHECKING:  # importing Locust changes the whole process: only the locustfile does
    from locust.argument_parser import LocustArgumentParser

MAX_ARRIVALS = 5_000_000
# Beside a load without a schedule, where contenders are named.
BYSTANDERS_PER_S = 20.0
# In place of one contender's name: all of them side by side.
BOTH = "both"
CONTENDER_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")

# Not for the web UI's form, nor for whoever posts to it: a file's name least of all.
COMMAND_LINE_ONLY = {
    "rate": (float, "requests per second of a fixed schedule, after which Locust exits"),
    "warmup": (float, "seconds before the measured window (default 0)"),
    "duration": (float, "seconds of the measured window"),
    "bystanders": (
        float,
        "requests per second to each of /ping/loop and /ping/thread (default 0; 20 where contenders are named)",
    ),
    "requests": (Path, "scenario requests: JSON file that describes them"),
    "ids": (str, "any text: request ids of another load, although the seed is the same"),
    "samples": (Path, "file for the raw samples, one JSON line per intended request; replaced where it exists"),
}

# The form sends an empty field as "".
Seed = Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(lambda value: None if value == "" else value)]


def contender_urls(given: Sequence[str]) -> dict[str, str]:
    """Return the URL of each contender, of ``NAME=URL`` with commas between. Raises UsageError naming what is wrong."""
    urls: dict[str, str] = {}
    for one in (part.strip() for text in given for part in text.split(",")):
        name, _, url = one.partition("=")
        if not url or not CONTENDER_NAME.fullmatch(name):
            raise UsageError(f"--contender-url {one} must look like inline=http://127.0.0.1:8001.")
        if name == BOTH or name in urls:
            raise UsageError(f"--contender-url {one}: the name {name} is taken.")
        urls[name] = url
    return urls


def contender_folders(given: Sequence[str]) -> dict[str, Path]:
    """Return the folder of each contender, of ``NAME=FOLDER`` with commas between. Raises UsageError for another."""
    pairs = [one.strip().partition("=") for text in given for one in text.split(",")]
    if wrong := [name for name, _, folder in pairs if not folder]:
        raise UsageError(f"--contender-data {wrong[0]} must look like inline=/data/inline.")
    return {name: Path(folder) for name, _, folder in pairs}


ContenderUrls = Annotated[dict[str, str], BeforeValidator(contender_urls)]
ContenderFolders = Annotated[dict[str, Path], BeforeValidator(contender_folders)]


class LoadOptions(BaseModel):
    """What load to make. With ``rate`` it is a fixed schedule; without, each Locust user is one arrival per second."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    host: str | None
    i_may_load: tuple[str, ...] = ()
    contender_url: ContenderUrls = {}
    contender_data: ContenderFolders = {}
    contender: str | None = None
    scenario: ScenarioName
    arrivals: ArrivalKind
    seed: Seed
    ids: str | None = None
    probe_work: ProbeWork
    probe_seconds: Annotated[FiniteFloat, Field(ge=0, le=60)]
    in_flight: Annotated[int, Field(ge=1, le=8_000)]
    requests: Path | None = None
    samples: Path | None
    rate: Annotated[FiniteFloat, Field(gt=0)] | None
    warmup: Annotated[FiniteFloat, Field(ge=0)] | None
    duration: Annotated[FiniteFloat, Field(gt=0)] | None
    bystanders: Annotated[FiniteFloat, Field(ge=0)] | None

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Self:
        if self.rate is None:
            given = [name for name in ("warmup", "duration", "ids") if getattr(self, name) is not None]
            if given:
                raise UsageError(f"--{given[0]} belongs to a fixed schedule: give --rate too.")
            return self
        if self.duration is None:
            raise UsageError("--rate needs --duration: how long the measured window is, in seconds.")
        arrivals = self.sent_per_s * self.span_s
        if arrivals > MAX_ARRIVALS:
            raise UsageError(f"A schedule of {arrivals:,.0f} requests is too long: at most {MAX_ARRIVALS:,}.")
        return self

    @model_validator(mode="after")
    def _contender_is_known(self) -> Self:
        if self.contender and self.contender not in (known := contender_choices(self.contender_url)):
            named = ", ".join(known) or "none, for which --contender-url is missing"
            raise UsageError(f"--contender {self.contender} is not known; there is: {named}.")
        return self

    @model_validator(mode="after")
    def _data_is_of_a_contender(self) -> Self:
        if unknown := sorted(self.contender_data.keys() - self.contender_url.keys()):
            raise UsageError(f"--contender-data {unknown[0]}: there is no --contender-url of that name.")
        return self

    @property
    def targets(self) -> dict[str | None, str | None]:
        """The URLs to load, by contender; where none is named, ``host`` by None."""
        if not self.contender_url:
            return {None: self.host}
        chosen = self.contender_url if self.contender in (None, "", BOTH) else [self.contender]
        return {name: self.contender_url[name] for name in chosen if name is not None}

    @property
    def bystanders_per_s(self) -> float:
        """Requests per second to each of the bystanders' routes."""
        if self.bystanders is not None:
            return self.bystanders
        return BYSTANDERS_PER_S if self.contender_url and self.rate is None else 0.0

    @property
    def span_s(self) -> float:
        """The length of warm-up and window together, in seconds."""
        return (self.warmup or 0.0) + (self.duration or 0.0)

    @property
    def sent_per_s(self) -> float:
        """How many requests/s a schedule sends, bystanders too, to all contenders together; infinite without one."""
        return ((self.rate or math.inf) + 2 * self.bystanders_per_s) * len(self.targets)


def read_options(values: Mapping[str, Any]) -> LoadOptions:
    """Return the options among Locust's parsed ones, checked. Raises UsageError naming the first that is wrong."""
    try:
        return LoadOptions.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"--{option} {first['input']}: {first['msg']}.") from error


def check_mode(values: Mapping[str, Any]) -> None:
    """Raise UsageError where options of Locust's own do not go with the load's."""
    fixed = [name for name in ("rate", "samples", "seed") if values[name] not in (None, "")]
    if fixed and values["worker"] and not values["processes"]:
        raise UsageError(f"--{fixed[0]} is for the master: it tells its workers what to send.")
    if fixed and values["rate"] is None and (values["master"] or values["worker"] or values["processes"]):
        raise UsageError(
            f"--{fixed[0]} needs --rate where several workers send: without a schedule, each sends its own."
        )
    if values["rate"] is None:
        return
    if not values["headless"]:
        raise UsageError("--rate is for --headless; in the web UI the number of users is the rate.")
    if values["num_users"] is not None or values["run_time"] is not None:
        raise UsageError("--rate and --duration say it all: not with --users or --run-time.")


def contender_choices(names: Iterable[str]) -> list[str]:
    """Return what ``--contender`` may be: all side by side first, where there are several."""
    known = list(names)
    return [BOTH, *known] if len(known) > 1 else known


def _named_contenders() -> list[str]:
    """Return the contenders' names before the command line is parsed: the form's field is made of them."""
    early = ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--contender-url", action="append", default=[])
    given = early.parse_known_args()[0].contender_url or [os.environ.get("LOCUST_CONTENDERS", "")]
    try:
        return list(contender_urls([one for one in given if one]))
    except UsageError:  # which is told when the options are checked
        return []


def add_arguments(parser: "LocustArgumentParser") -> None:
    """Add the load's options; some do not appear in the web UI's form."""
    parser.add_argument(
        "--contender-url",
        action="append",
        default=[],
        env_var="LOCUST_CONTENDERS",
        metavar="NAME=URL",
        help="a server to load in place of --host, and its name; repeatable, or with commas between",
        include_in_web_ui=False,
    )
    parser.add_argument(
        "--contender-data",
        action="append",
        default=[],
        env_var="LOCUST_CONTENDER_DATA",
        metavar="NAME=FOLDER",
        help="the DATA_DIR of a contender, for its tasks on the page Comparison; repeatable, or with commas between",
        include_in_web_ui=False,
    )
    choices = contender_choices(_named_contenders())
    if choices:
        parser.add_argument(
            "--contender", choices=choices, default=choices[0], help="who is loaded: both at once or one"
        )
    parser.add_argument("--scenario", choices=get_args(ScenarioName), default="mixed", help="what is asked for")
    parser.add_argument("--arrivals", choices=get_args(ArrivalKind), default="poisson", help="how arrivals are spaced")
    parser.add_argument(
        "--seed", type=int, help="fixes arrivals and bodies, with --rate request ids too; drawn where not given"
    )
    parser.add_argument("--probe-work", choices=get_args(ProbeWork), default="io", help="scenario probe: the task")
    parser.add_argument("--probe-seconds", type=float, default=0.05, help="scenario probe: its length in seconds")
    parser.add_argument(
        "--in-flight",
        type=int,
        default=1000,
        help="most requests under way at once to each contender, of all Locust workers together; one more goes unsent",
    )
    parser.add_argument(
        "--i-may-load",
        action="append",
        default=[],
        env_var="LOCUST_I_MAY_LOAD",
        metavar="HOST",
        help="a host other than this machine that may be loaded; repeatable",
        include_in_web_ui=False,
    )
    for name, (kind, explanation) in COMMAND_LINE_ONLY.items():
        parser.add_argument(f"--{name}", type=kind, help=explanation, include_in_web_ui=False)
