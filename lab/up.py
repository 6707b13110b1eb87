"""`lab up`: the stacks and the Locust web UI, kept running to play with."""

import http.client
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from lab import environment, exploratory
from lab.control import Control, ControlServer
from lab.environment import PROJECT
from lab.errors import LabError
from lab.interrupt import Interrupt
from lab.rundir import ContenderRecord, RunDir
from lab.stacks.local import LocalStack, Servers
from lab.stacks.servers import wait_until_up
from lab.stacks.supervisor import StackError, Supervisor

# A fault is waited for before its stack is ended: a second or two, unless what it hits does not come up again.
FAULT_OVER_WITHIN_S = 5.0
# What is under way when somebody stops the load: a request times out after this.
ANSWERED_WITHIN_S = 10


def keep_running(contenders: list[ContenderRecord], web_port: int, out: Path, console: Console) -> None:
    """Start the contenders' stacks and Locust's web UI, say where they are, and end all of it at Ctrl-C.

    Their logs and data go to a folder of their own under ``out``. Raises LabError where one does not come up or dies.
    """
    interrupt = Interrupt()
    _check_free(web_port)
    placement = environment.place(environment.available_cpus())
    folder = RunDir.create(out.resolve(), "up").path
    with ExitStack() as running:
        supervisor = running.enter_context(Supervisor(folder / "supervisor"))
        servers = running.enter_context(Servers(supervisor, placement))
        stacks = []
        for contender in contenders:
            shared = servers.with_own_mail(contender.name)
            running.callback(shared.mail.stop)
            stack = LocalStack(supervisor, contender, shared, folder / contender.name, placement)
            stacks.append(running.enter_context(stack))
        samples = folder / "samples.jsonl"
        control = Control(
            stacks, samples, lambda load, seen: exploratory.save(load, seen, out.resolve(), placement, servers.versions)
        )
        running.callback(control.wait, FAULT_OVER_WITHIN_S)
        server = running.enter_context(ControlServer(control))
        _start_web_ui(supervisor, stacks, web_port, folder, samples, server.environment)
        for stack in stacks:
            console.print(f"{stack.contender.name}: {stack.base_url}/docs", highlight=False)
        console.print(
            f"Locust web UI: http://127.0.0.1:{web_port} (its form asks who is loaded: one, or all side by side)"
        )
        console.print("They share CPUs, so this is for the eye: figures come from `lab compare`. Ctrl-C ends it.")
        console.print(f"Logs and data: {folder}", soft_wrap=True, highlight=False)
        while not interrupt.asked:
            _check(supervisor)
            time.sleep(0.25)
        console.print("Ending what was started.")


def _start_web_ui(
    supervisor: Supervisor, stacks: list[LocalStack], port: int, folder: Path, samples: Path, control: dict[str, str]
) -> None:
    """Start Locust's web UI. Raises StackError where the port is taken or it does not come up."""
    locustfile = str(PROJECT / "loadtests" / "locustfile.py")
    command = [sys.executable, "-m", "locust", "-f", locustfile]
    command += ["--web-host", "127.0.0.1", "--web-port", str(port), "--samples", str(samples)]
    command += ["--stop-timeout", str(ANSWERED_WITHIN_S)]
    names = ",".join(f"{stack.contender.name}={stack.base_url}" for stack in stacks)
    environment = control | {"LOCUST_CONTENDERS": names}
    locust = supervisor.start(
        "locust", command, environment, cwd=PROJECT, cpus=stacks[0].generator_cpus, log=folder / "logs" / "locust.log"
    )
    wait_until_up([locust], port, lambda: _connect(port))


def _check_free(port: int) -> None:
    """Raise LabError where the port is taken: better now than when the stacks are up."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        raise LabError(f"Port {port} of 127.0.0.1 cannot be used: {error.strerror}; see --web-port.") from error


def _connect(port: int) -> None:
    """Raise OSError or StackError unless the web UI answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        if connection.getresponse().status != http.HTTPStatus.OK:
            raise StackError("the web UI is not ready")
    finally:
        connection.close()


def _check(supervisor: Supervisor) -> None:
    """Raise LabError where the web UI has ended by itself; apps and workers are restarted by the supervisor."""
    locust = supervisor.children["locust"]
    if (status := locust.poll()) is not None:
        raise LabError(f"The Locust web UI ended with status {status}; see {locust.log}.")
