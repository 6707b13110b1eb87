"""The container engine, asked by its own command line: what works for the user works for the lab."""

import json
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from lab.environment import PROJECT
from lab.stacks import proc
from lab.stacks.supervisor import StackError

ANSWER_WITHIN_S = 60.0
BUILD_WITHIN_S = 1800.0
COMPOSE_FILE = PROJECT / "docker-compose.yml"
GONE = "Containers of this run are gone: somebody has removed them."

# Its input ends when the lab ends, however that comes about. Twice: the engine may still have had something in hand.
GUARD = """
trap '' INT TERM HUP
cat > /dev/null
for _ in 1 2; do
    docker compose -p "$0" down --volumes --remove-orphans --timeout 1
    test -z "$(docker ps -aq --filter "label=com.docker.compose.project=$0")" && sleep 1
done
"""


def docker(*arguments: str, env: Mapping[str, str] | None = None, within_s: float = ANSWER_WITHIN_S) -> str:
    """Return what a `docker` command prints. Raises StackError with the engine's own words where it fails."""
    try:
        done = subprocess.run(
            ["docker", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env={**os.environ, **(env or {})},
            cwd=PROJECT,
            stdin=subprocess.DEVNULL,
            timeout=within_s,
            start_new_session=True,  # Ctrl-C is for the lab
            preexec_fn=partial(proc.die_with_parent, os.getpid()),
        )
    except FileNotFoundError as error:
        raise StackError("There is no `docker` on PATH: --stack compose needs a container engine.") from error
    except subprocess.TimeoutExpired as error:
        what = " ".join(arguments[:2])
        raise StackError(f"The container engine did not answer `docker {what}` within {within_s:.0f} s.") from error
    if done.returncode:
        raise StackError(_in_a_sentence(done.stderr))
    return done.stdout


def _in_a_sentence(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = (
        [line for line in lines if "rror" in line and not line.endswith("Error")] or lines or ["it does not say why"]
    )
    said = telling[-1].rpartition("Error response from daemon: ")[2]
    if taken := re.search(r"(\S+:\d+)\S* failed: port is already allocated|listen tcp4? (\S+): bind", said):
        return f"The port {taken[1] or taken[2]} is in use by another program."
    if "No such container" in said:
        return GONE
    return f"The container engine refused: {said.rstrip('.')}."


def check_engine() -> str:
    """Return the versions of engine and compose. Raises StackError where the engine or compose v2 is not there."""
    try:
        engine = docker("version", "--format", "{{.Server.Version}}").strip()
    except StackError as error:
        if "no `docker`" in str(error):
            raise
        if "permission denied" in str(error):
            raise StackError("The container engine does not let this user in; see `docker version`.") from error
        raise StackError("No container engine answers; start it, and see `docker version`.") from error
    try:
        compose = docker("compose", "version", "--short").strip().removeprefix("v")
    except StackError as error:
        raise StackError("`docker compose` is not there: --stack compose needs compose v2.24 or newer.") from error
    numbers = tuple(int(part) for part in re.findall(r"\d+", compose)[:2])
    if numbers < (2, 24):
        raise StackError(f"This is compose {compose}: --stack compose needs v2.24 or newer.")
    return f"Docker {engine}, compose {compose}"


def inspect(container: str) -> dict[str, Any]:
    """Return what the engine knows of a container. Raises StackError where there is none."""
    found: dict[str, Any] = json.loads(docker("container", "inspect", container))[0]
    return found


def image(name: str) -> tuple[str, str]:
    """Return the id of an image, and for people its name, digest and size; it is fetched where it is not there."""
    try:
        text = docker("image", "inspect", name)
    except StackError:
        docker("pull", "--quiet", name, within_s=BUILD_WITHIN_S)
        text = docker("image", "inspect", name)
    found = json.loads(text)[0]
    digest = next((one.partition("@")[2] for one in found["RepoDigests"]), found["Id"])
    return found["Id"], f"{name} {digest}, {found['Size'] / 1e6:.0f} MB"


class Project:
    """One compose project: a name of its own, the repository's file, and passwords that only the environment has.

    A context manager. Whatever becomes of the lab, its containers, networks and volumes are removed: by a process
    that waits for the end of the lab.
    """

    def __init__(self, name: str, secrets: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.secrets = secrets
        self.log = log

    def __enter__(self) -> "Project":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._guard = subprocess.Popen(
                ["sh", "-c", GUARD, self.name],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._guard.stdin is not None
        with suppress(OSError):
            self._guard.stdin.close()
        self._guard.wait()

    def compose(self, *arguments: str, override: Path | None = None, within_s: float = ANSWER_WITHIN_S) -> str:
        """Return what `docker compose` prints for this project. Raises StackError where it fails."""
        files = ["-f", str(COMPOSE_FILE), *(["-f", str(override)] if override else [])]
        return docker("compose", "-p", self.name, *files, *arguments, env=self.secrets, within_s=within_s)

    def up(self, services: Sequence[str], override: Path) -> dict[str, str]:
        """Make and start containers for services, without waiting for them; return their ids by service."""
        fresh = ["--detach", "--no-deps", "--no-build", "--force-recreate"]
        self.compose("up", *fresh, *services, override=override)
        return {service: self.compose("ps", "-aq", service, override=override).strip() for service in services}

    def keep_log(self, service: str, file: Path, override: Path | None = None) -> None:
        """Write to a file what the containers of a service have printed; nothing where they are gone."""
        with suppress(StackError):
            file.write_text(self.compose("logs", "--no-log-prefix", service, override=override))

    def remove(self, services: Sequence[str], override: Path) -> None:
        """Remove the containers of services, running or not, without waiting for what they have under way."""
        self.compose("stop", "--timeout", "1", *services, override=override)
        self.compose("rm", "--force", "--volumes", *services, override=override)

    def config(self) -> dict[str, Any]:
        """Return the repository's file as compose understands it: all services and their limits."""
        found: dict[str, Any] = json.loads(self.compose("config", "--format", "json"))
        return found
