"""A clean copy of the checkout, and what a container must be, asked of the engine and of its first process."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lab.environment import PROJECT

LOOPBACK = {"127.0.0.1", "::1"}


def copy_tracked_files(folder: Path) -> None:
    """Copy what a clone would have, with changes that are not committed yet."""
    listed = subprocess.run(["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, check=True, text=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)


def docker(*arguments: str, given: str | None = None, check: bool = True) -> str:
    """Run the engine's client and return what it printed, on both streams."""
    done = subprocess.run(
        ["docker", *arguments], input=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 0 or not check, f"docker {' '.join(arguments)}: {done.stdout}"
    return done.stdout


def inspected(container: str) -> dict[str, Any]:
    """Return what the engine says of a container."""
    description: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return description


def guards_missing(container: str) -> set[str]:
    """Return what keeps a running container from being shut in: nothing, where all is well."""
    said = inspected(container)
    host = said["HostConfig"]
    status, mounts = docker("exec", container, "cat", "/proc/1/status", "/proc/1/mounts").split("Seccomp:", 1)
    process = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    root = next(line.split() for line in mounts.splitlines() if " / " in line)
    bindings = [one["HostIp"] for ports in (host["PortBindings"] or {}).values() for one in ports]
    published = [one["HostIp"] for ports in said["NetworkSettings"]["Ports"].values() for one in ports or []]
    held = {
        "user": "0" not in process["Uid"] + process["Gid"],
        "capabilities": all(int(process[name][0], 16) == 0 for name in ("CapEff", "CapPrm", "CapInh", "CapBnd")),
        "no new privileges": process["NoNewPrivs"] == ["1"],
        "read-only root": "ro" in root[3].split(","),
        "ports on loopback": LOOPBACK.issuperset(bindings + published),
        "no engine socket": not any("docker.sock" in mount["Source"] for mount in said["Mounts"]),
        "memory limit": host["Memory"] > 0,
        "CPU set": host["CpusetCpus"] != "",
        "log rotation": "max-size" in host["LogConfig"]["Config"],
        "health check": said["Config"].get("Healthcheck", {}).get("Test", ["NONE"]) != ["NONE"],
    }
    return {guard for guard, is_there in held.items() if not is_there}


def passwords_of(container: str) -> set[str]:
    """Return the passwords that a container has in its environment, those in addresses as well."""
    settings = "\n".join(inspected(container)["Config"]["Env"])
    found = re.findall(r"^(?:\w+_PASSWORD|REDISCLI_AUTH)=(.+)$|://\w*:(\w+)@", settings, re.MULTILINE)
    return {password for either in found for password in either if password}


def files_with(secrets: Iterable[str], folder: Path) -> list[Path]:
    """Return which files below a folder have one of the secrets in them."""
    wanted = [secret.encode() for secret in secrets]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [file for file in files if any(secret in file.read_bytes() for secret in wanted)]


def image_leaks(image: str, secrets: Iterable[str]) -> bool:
    """Return whether an image has one of the secrets in its history, its settings or the project's files."""
    told = docker("image", "history", "--no-trunc", image) + docker("image", "inspect", image)
    if any(secret in told for secret in secrets):
        return True
    search = ["grep", "-rqFf", "-", "/app"]
    command = ["docker", "run", "--rm", "-i", "--network", "none", image, *search]
    status = subprocess.run(command, input="\n".join(secrets), text=True).returncode
    assert status in {0, 1}, f"grep in {image}: exit status {status}"
    return status == 0
