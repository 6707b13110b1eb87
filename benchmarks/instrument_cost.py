"""What journal and sampler cost contenders: ``python -m benchmarks.instrument_cost inline celery``.

The trial of `lab calibrate`, which has the time for `inline` alone: in each round a fresh stack with both and one with
neither. Printed are the medians, and the mean ratio with its 95 % t-interval over the rounds; at 1.00 it costs nothing.
"""

import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from lab.contenders import load_contenders
from lab.environment import PROJECT, available_cpus, place
from lab.instrument_cost import ROUNDS, SECONDS, CostTrial
from lab.priority import off_the_contenders_cpus, stepped_back
from lab.report.summary import Cost
from lab.stacks.local import Servers
from lab.stacks.supervisor import Supervisor

SEED = 1
TRIED = ["inline", "celery"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table of each contender."""
    contenders = load_contenders(PROJECT / "contenders.toml")
    parser = ArgumentParser(description="What journal and sampler cost.")
    parser.add_argument("contenders", nargs="*", default=TRIED, metavar="contender", help=", ".join(contenders))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each of the two loads of a stack")
    options = parser.parse_args(arguments)
    if unknown := options.contenders - contenders.keys():
        parser.error(f"no contender is named {min(unknown)}")
    placement = place(available_cpus())
    print(f"contender on CPUs {placement.contender}, generator and sampler on {placement.generator}")
    print(f"{'contender':<15} {'figure':<17} {'with':>9} {'without':>9}  ratio")
    with tempfile.TemporaryDirectory() as directory, off_the_contenders_cpus(placement):
        for name in options.contenders:
            with Supervisor(Path(directory) / name) as supervisor, Servers(supervisor, placement) as servers:
                trial = CostTrial(supervisor, servers, contenders[name], lambda: None)
                for cost in stepped_back(partial(trial.run, SEED, options.rounds, options.seconds)):
                    print(line(cost), flush=True)


def line(cost: Cost) -> str:
    """Return what one figure cost as a line of the table; no ratio for fewer than two rounds."""
    told = f"{cost.contender:<15} {cost.metric:<17} {cost.instrumented or 0:>9,.1f} {cost.bare or 0:>9,.1f}"
    if cost.ratio is None or cost.low is None or cost.high is None:
        return told
    return f"{told}  {cost.ratio:.3f} ({cost.low:.3f}–{cost.high:.3f})"


if __name__ == "__main__":
    main()
