"""`lab up` for browser tests: started, and ended as by Ctrl-C, after which nothing may be left."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from lab.environment import PROJECT
from lab.stacks.servers import free_port
from tests.support import alive, until


@contextmanager
def lab_up(folder: Path, *contenders: str) -> Iterator[str]:
    """Run `lab up` with these contenders, its runs in a folder, and give where its web UI is."""
    port, output = free_port(), folder / "up.log"
    command = [sys.executable, "-m", "lab", "up", "--web-port", str(port), "--out", str(folder)]
    command += [part for name in contenders for part in ("--contender", name)]
    with output.open("w") as log:
        lab = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
    try:
        assert until(lambda: f":{port}" in output.read_text() or lab.poll() is not None, within_s=60)
        assert lab.poll() is None, output.read_text()
        processes = psutil.Process(lab.pid).children(recursive=True)
        yield f"http://127.0.0.1:{port}"
        lab.send_signal(signal.SIGINT)
        assert lab.wait(30) == 0, output.read_text()
        assert not alive(processes)
    finally:
        lab.kill()
        lab.wait()
