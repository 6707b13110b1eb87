"""How late a sleeper wakes, with its CPU kept awake and without, in turn: ``python -m benchmarks.wake_up``.

On the generator's first CPU, before all others where that may be. On a machine that is no virtual one, both are alike.
"""

import os
import subprocess
import time
from argparse import ArgumentParser
from collections.abc import Sequence

from lab import awake
from lab.environment import available_cpus, place
from lab.priority import step_forward
from lab.stats import percentile

SLEEP_S = 0.002


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line of each turn."""
    parser = ArgumentParser(description="How late a sleeper wakes, with its CPU kept awake and without.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each half of a turn")
    options = parser.parse_args(arguments)
    cpu = place(available_cpus()).generator[0]
    os.sched_setaffinity(0, [cpu])
    step_forward()
    print(f"in a run it is {'' if awake.is_due() else 'not '}kept awake; CPU {cpu}; late by, in ms")
    print(f"{'':<11} {'wakes':>6} {'p50':>6} {'p99':>6} {'p99.9':>6} {'most':>6}")
    for _ in range(options.turns):
        print(line("left alone", lateness_ms(options.seconds)), flush=True)
        with subprocess.Popen(awake.command(cpu, os.getpid())) as keeper:
            try:
                print(line("kept awake", lateness_ms(options.seconds)), flush=True)
            finally:
                keeper.kill()


def lateness_ms(for_s: float) -> list[float]:
    """Return how much longer than asked for each sleep of 2 ms took."""
    late_ms, end = [], time.monotonic() + for_s
    while (begun := time.monotonic()) < end:
        time.sleep(SLEEP_S)
        late_ms.append((time.monotonic() - begun - SLEEP_S) * 1e3)
    return late_ms


def line(name: str, late_ms: list[float]) -> str:
    """Return what a half of a turn found as a line of the table."""
    figures = [*(percentile(late_ms, share) for share in (0.5, 0.99, 0.999)), max(late_ms)]
    return f"{name:<11} {len(late_ms):>6,} " + " ".join(f"{figure:>6.2f}" for figure in figures)


if __name__ == "__main__":
    main()
