"""What one journal event costs: ``python -m benchmarks.journal_cost`` (or run it as a script).

A repeat times many events written one after another to a real file; the cost of one event is a repeat's time divided by
its events. Printed are the median of the repeats and the quartiles, in microseconds.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from uuid import uuid4

# Run as a script, this folder is on the path and the project is not.
sys.path.insert(0, str(Path(__file__).parents[1]))

from workload.journal import Journal

REPEATS = 50
EVENTS = 2_000


def cost_us(journal: Journal) -> float:
    """Return what one event costs in microseconds, as the mean of EVENTS."""
    task_id = uuid4()
    started_ns = time.perf_counter_ns()
    for _ in range(EVENTS):
        journal.write(task_id, "write_log", "started")
    return (time.perf_counter_ns() - started_ns) / EVENTS / 1_000


def main() -> None:
    """Measure and print one line."""
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal(Path(directory), "benchmark")
        costs = [cost_us(journal) for _ in range(REPEATS)]
        journal.close()
    low, median, high = statistics.quantiles(costs, n=4)
    print(f"one event: median {median:.1f} µs, quartiles {low:.1f} and {high:.1f} µs ({REPEATS} × {EVENTS} events)")


if __name__ == "__main__":
    main()
