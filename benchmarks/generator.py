"""How fast the load generator is: ``python -m benchmarks.generator``.

The Locust process and the samples of a real block, against a server that answers at once on other CPUs. The rate is
doubled until it cannot be sent in time, then the gap is halved: sent in time is with a p99 lateness below 1 ms, and
each request acknowledged. With more than one process (``--processes 1 2``) Locust's own ``--processes`` is used.
"""

import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lab.environment import available_cpus, place
from lab.generator import BOUNDS, Attempt, Bounds, GeneratorTrial, processes_to_try
from lab.priority import stepped_back
from lab.report.summary import Generator
from lab.stacks.supervisor import Supervisor

SEED = 1


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print each attempt and what was found."""
    placement = place(available_cpus())
    parser = ArgumentParser(description="How fast the load generator is.")
    parser.add_argument("--processes", type=int, nargs="+", default=processes_to_try(placement))
    parser.add_argument("--lowest", type=float, default=BOUNDS.lowest, help="requests/s to begin with")
    parser.add_argument("--highest", type=float, default=BOUNDS.highest)
    parser.add_argument("--halvings", type=int, default=BOUNDS.halvings)
    parser.add_argument("--seconds", type=float, default=BOUNDS.seconds, help="of each attempt")
    options = parser.parse_args(arguments)
    bounds = Bounds(options.lowest, options.highest, options.halvings, options.seconds)
    print(f"generator on CPUs {placement.generator}, server on {placement.contender}")
    with tempfile.TemporaryDirectory() as directory, Supervisor(Path(directory)) as supervisor:
        trial = GeneratorTrial(supervisor, placement, lambda: None)
        for processes in options.processes:
            print(f"{'processes':>9} {'rate /s':>9} {'late p99':>9} {'lag p99':>9} {'requests':>9} {'failed':>7}")
            found = stepped_back(partial(trial.run, processes, SEED, bounds, partial(show, processes)))
            print(verdict(found))


def show(processes: int, one: Attempt) -> None:
    """Print an attempt as a line of the table."""
    times = f"{one.lateness_p99_ms:>6.2f} ms {one.loop_lag_p99_ms:>6.2f} ms"
    print(f"{processes:>9} {one.rate:>9,.0f} {times} {one.requests:>9,} {one.failed:>7,}", flush=True)


def verdict(found: Generator) -> str:
    """Return what was found in a sentence."""
    limit = "the highest rate tried" if found.too_fast is None else f"not {found.too_fast:,.0f}"
    if found.rate is None:
        return f"processes: {found.processes}; late or failed at every rate tried"
    return f"processes: {found.processes}; {found.rate:,.0f} requests/s in time, {limit}"


if __name__ == "__main__":
    main()
