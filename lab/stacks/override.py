"""What the lab changes in docker-compose.yml: for each block, and for what all blocks of a run share.

Only what differs: the contender's commands and settings, CPUs, ports of the lab's choosing, a database and a data
directory of the block's own, and networks that can be cut one by one.
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.contenders import fill
from lab.environment import PROJECT
from lab.errors import UsageError
from lab.rundir import ContenderRecord, Placement

PORT = 8000
# After "default" in the alphabet: the engine publishes ports through the first of a container's networks, and cutting
# that one would cut the load generator off as well.
API_TO_BROKER = "link-api-to-broker"
WORKER_TO_BROKER = "link-worker-to-broker"

Override = dict[str, Any]


def services_of(contender: ContenderRecord) -> dict[str, str]:
    """Return the compose service of each part of a contender, by the part's name: API first, then workers, broker.

    Raises UsageError for what the compose file has no services for.
    """
    if contender.url:
        raise UsageError(f"'{contender.name}' runs already: --stack compose is for what the lab starts.")
    if contender.folder and Path(contender.folder) != PROJECT:
        raise UsageError(f"'{contender.name}' is not in the image: --stack compose runs the lab's own contenders.")
    if len(contender.workers) > 1 or bool(contender.workers) != (contender.broker == "redis"):
        raise UsageError(f"'{contender.name}' needs other services than docker-compose.yml has: a worker and a Redis.")
    names = ["api", "worker-1", "broker"] if contender.workers else ["api"]
    services = ["celery", "worker", "redis"] if contender.workers else ["inline"]
    return {f"{contender.name}-{name}": service for name, service in zip(names, services, strict=True)}


def contender_override(
    contender: ContenderRecord,
    image: str,
    placement: Placement,
    database: str,
    data: Path,
    ports: Mapping[str, int],
) -> Override:
    """Return what a block changes in the compose file; ``ports`` are those on the host by service.

    Passwords are not in it: compose takes them from the environment, as in the file.
    """
    api, *others = services_of(contender).values()
    commands = dict(zip([api, *others[:1]], [contender.api, *contender.workers], strict=True))
    address = f"postgresql://postgres:${{POSTGRES_PASSWORD}}@postgres:5432/{database}"
    program = {
        "image": image,
        "user": container_user(),
        "environment": contender.env | {"DATABASE_URL": address, "DATA_DIR": "/data"},
        "volumes": [f"{data}:/data"],
        "depends_on": {},  # on health checks, which are off
        "healthcheck": {"disable": True},  # it would take CPU time from the contender; the lab asks from outside
    }
    services: dict[str, Override] = {
        service: program | {"command": [in_container(part) for part in fill(command, PORT, len(placement.contender))]}
        for service, command in commands.items()
    }
    services[api]["ports"] = [f"127.0.0.1:{ports[api]}:{PORT}"]
    if others:
        worker, broker = others
        services[api]["networks"] = ["default", API_TO_BROKER]
        services[worker]["networks"] = ["default", WORKER_TO_BROKER]
        services[broker] = {
            "networks": [API_TO_BROKER, WORKER_TO_BROKER],
            "environment": {"APPENDONLY": "no"},  # it keeps nothing, as in the local stack
            "volumes": ["/data"],  # of this container alone: that of the file's own would outlive the block
            "ports": [f"127.0.0.1:{ports[broker]}:6379"],
            "healthcheck": {"disable": True},
        }
    for service in services.values():
        service |= cpuset(placement.contender, placement)
    return {"services": services, "networks": {API_TO_BROKER: {}, WORKER_TO_BROKER: {}} if others else {}}


def shared_override(image: str, placement: Placement, mails: Path, port: int) -> Override:
    """Return what a run changes in the compose file for PostgreSQL and the mail sink."""
    no_check = {"healthcheck": {"disable": True}} | cpuset(placement.generator, placement)
    mail = {
        "image": image,
        "user": container_user(),
        "command": ["python", "-m", "lab.stacks.mailsink", "1025", "/mails/mails.jsonl", "0.0.0.0"],  # noqa: S104
        "volumes": [f"{mails}:/mails"],
    }
    return {"services": {"postgres": {"ports": [f"127.0.0.1:{port}:5432"]} | no_check, "mail": mail | no_check}}


def as_yaml(override: Override) -> str:
    """Return an override as compose reads it, in which ports and dependencies take the place of the file's own."""
    text = json.dumps(override, indent=2)
    return text.replace('"ports": [', '"ports": !override [').replace('"depends_on": {}', '"depends_on": !reset {}')


def in_container(part: str) -> str:
    """Return a part of a command as it must be in a container: its own Python, and reachable from outside.

    Compose reads a single dollar as the beginning of a variable.
    """
    return {sys.executable: "python", "127.0.0.1": "0.0.0.0"}.get(part, part).replace("$", "$$")  # noqa: S104


def cpuset(wanted: list[int], placement: Placement) -> Override:
    """Return the setting that pins a service to CPUs; none where the system cannot pin."""
    return {"cpuset": ",".join(map(str, wanted))} if placement.pinned else {}


def container_user() -> str:
    """Return the user of the programs: this one, so that both can handle the data; never root."""
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else "1000:1000"


def make_folder(path: Path) -> Path:
    """Make a folder that the programs in the containers may write."""
    path.mkdir(parents=True)
    if not os.getuid():
        os.chown(path, 1000, 1000)
    return path
