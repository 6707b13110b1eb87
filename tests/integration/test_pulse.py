"""What the pulse learns of a server that answers late, however late it looks."""

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

import pytest

from lab import pulse
from lab.pulse import Pulse
from tests.support import until

TICK_S = 0.02  # the kernel knows the time by its ticks


@contextmanager
def mail_sink(answers_after_s: float, answered: list[float]) -> Iterator[str]:
    """Run a mail sink that answers one question; yield its address. ``answered`` gets the time at which it has."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.sendall(b"220 here\r\n")
                client.recv(100)
                time.sleep(answers_after_s)
                client.sendall(b"250 done\r\n")
                answered.append(time.monotonic())
                client.recv(100)

        serving = Thread(target=serve)
        serving.start()
        yield f"smtp://127.0.0.1:{server.getsockname()[1]}"
        serving.join()


@pytest.mark.parametrize("answers_after_s", [0.0, 0.5])
def test_how_long_a_server_was_silent_is_known_to_who_looks_late(
    answers_after_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither is its silence overlooked, nor is it accused of what the lab itself was kept waiting for."""
    monkeypatch.setattr(pulse, "EVERY_S", 60)
    answered: list[float] = []
    with mail_sink(answers_after_s, answered) as url:
        began = time.monotonic()
        with Pulse({"mail": url}) as asked:
            assert until(lambda: answered and time.monotonic() > answered[0] + 0.4)
    assert answers_after_s / 2 <= asked.seen()["mail_silent_s"] <= answered[0] - began + TICK_S
