"""Live figures: what the page "Comparison" shows, kept as histograms that merge exactly, while the load runs."""

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from loadtests.arrivals import NS_PER_S
from loadtests.recorder import Sample
from loadtests.tasks import Tasks

# The one contender where none is named.
UNNAMED = "app"
SERIES_S = 600
RECENT_S = 10
# Of fewer, one request in a hundred is a handful or none; the report has the same limit.
REQUESTS_FOR_P99 = 1_000
# A bucket is 2 % wide and stands for its geometric middle, which is at most 1 % away from all that is in it.
GROWTH = 1.02
_LOG_GROWTH = math.log(GROWTH)

State = Literal["ready", "running", "ending", "stopped"]
Milliseconds = float | Literal["inf"] | None


@dataclass(slots=True)
class Histogram:
    """Times in logarithmic buckets, and how many never ended well. A percentile is off by at most 1 % of itself."""

    buckets: Counter[int] = field(default_factory=Counter)
    endless: int = 0

    def add(self, time_ns: int | None) -> None:
        """Count a time in nanoseconds, taken as at least 1; None stands for +inf."""
        if time_ns is None:
            self.endless += 1
        else:
            self.buckets[math.floor(math.log(max(1, time_ns)) / _LOG_GROWTH)] += 1

    def merge(self, other: "Histogram") -> None:
        """Add all that another one has counted."""
        self.buckets.update(other.buckets)
        self.endless += other.endless

    def percentile_ms(self, share: float) -> Milliseconds:
        """Return the smallest time that at least this share is within: None where nothing was counted."""
        count = self.buckets.total() + self.endless
        if not count:
            return None
        left = math.ceil(share * count)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return round(GROWTH ** (bucket + 0.5) / 1e6, 6)
        return "inf"


@dataclass(slots=True)
class Figures:
    """What became of the requests of a span of time, to one contender.

    The response time counts from the intended time, and is +inf for what was not acknowledged. The service time
    counts from the sending, of what was acknowledged alone, as in the report. Bystanders are in no other figure than
    their own.
    """

    acknowledged: int = 0
    failed: int = 0
    unsent: int = 0
    response: Histogram = field(default_factory=Histogram)
    service: Histogram = field(default_factory=Histogram)
    lateness: Histogram = field(default_factory=Histogram)
    bystander: Histogram = field(default_factory=Histogram)

    def add(self, sample: Sample) -> None:
        """Count one request."""
        ended_ns = sample.ended_ns if sample.outcome == "acknowledged" else None
        response_ns = None if ended_ns is None else ended_ns - sample.intended_ns
        if sample.stream == "bystander":
            self.bystander.add(response_ns)
            return
        self.response.add(response_ns)
        self.acknowledged += sample.outcome == "acknowledged"
        self.failed += sample.outcome in ("refused", "indeterminate")
        self.unsent += sample.outcome == "unsent"
        if sample.sent_ns is not None:
            self.lateness.add(sample.sent_ns - sample.intended_ns)
            if ended_ns is not None:
                self.service.add(ended_ns - sample.sent_ns)

    def merge(self, other: "Figures") -> None:
        """Add all that another one has counted."""
        self.acknowledged += other.acknowledged
        self.failed += other.failed
        self.unsent += other.unsent
        self.response.merge(other.response)
        self.service.merge(other.service)
        self.lateness.merge(other.lateness)
        self.bystander.merge(other.bystander)

    @property
    def sent(self) -> int:
        """The requests that were sent and have ended."""
        return self.acknowledged + self.failed

    def as_dict(self) -> dict[str, Any]:
        """Return counts, and percentiles in ms: None where there are too few, "inf" where a failed request is."""
        requests = self.acknowledged + self.failed + self.unsent
        return {
            "requests": requests,
            "acknowledged": self.acknowledged,
            "failed": self.failed,
            "unsent": self.unsent,
            "p50_ms": self.response.percentile_ms(0.50),
            "p95_ms": self.response.percentile_ms(0.95),
            "p99_ms": self.response.percentile_ms(0.99) if requests >= REQUESTS_FOR_P99 else None,
            "service_p50_ms": self.service.percentile_ms(0.50),
            "service_p95_ms": self.service.percentile_ms(0.95),
            "lateness_p99_ms": self.lateness.percentile_ms(0.99),
            "bystander_p50_ms": self.bystander.percentile_ms(0.50),
            "bystander_p95_ms": self.bystander.percentile_ms(0.95),
        }


class _Contender:
    """The figures of one contender: in total, and for each of the last seconds of intended time."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._total = Figures()
        self._seconds: dict[int, Figures] = {}

    def add(self, second: int, sample: Sample) -> None:
        self._total.add(sample)
        if second not in self._seconds:
            for old in [at for at in self._seconds if at <= second - SERIES_S]:
                del self._seconds[old]
            self._seconds[second] = Figures()
        self._seconds[second].add(sample)

    def as_dict(self, now_s: float) -> dict[str, Any]:
        recent = Figures()
        for second, figures in self._seconds.items():
            if second > now_s - RECENT_S:
                recent.merge(figures)
        return {
            "url": self._url,
            "total": self._total.as_dict() | {"sent_per_s": _per_s(self._total.sent, now_s)},
            "recent": recent.as_dict() | {"sent_per_s": self._recently_sent_per_s(int(now_s))},
            "series": self._series(),
        }

    def _recently_sent_per_s(self, until_s: int) -> float | None:
        """Return how many requests were sent in each of the last whole seconds, on average."""
        seconds = range(max(0, until_s - RECENT_S), until_s)
        return _per_s(sum(self._seconds[at].sent for at in seconds if at in self._seconds), len(seconds))

    def _series(self) -> dict[str, list[Any]]:
        seconds = sorted(self._seconds)[-SERIES_S:]
        figures = [self._seconds[second] for second in seconds]
        return {
            "t_s": seconds,
            "p50_ms": [one.response.percentile_ms(0.50) for one in figures],
            "p95_ms": [one.response.percentile_ms(0.95) for one in figures],
            "p99_ms": [one.response.percentile_ms(0.99) for one in figures],
            "service_p95_ms": [one.service.percentile_ms(0.95) for one in figures],
            "acknowledged_per_s": [one.acknowledged for one in figures],
            "failed_per_s": [one.failed for one in figures],
            "unsent_per_s": [one.unsent for one in figures],
            "lateness_p99_ms": [one.lateness.percentile_ms(0.99) for one in figures],
            "bystander_p95_ms": [one.bystander.percentile_ms(0.95) for one in figures],
        }


def _per_s(count: int, span_s: float) -> float | None:
    return round(count / span_s, 1) if span_s >= 1 else None


class Live:
    """The figures of the run that is on, or of the last one; it takes samples in any order and of any process.

    ``tasks`` knows what became of the tasks, as far as somebody does.
    """

    def __init__(self, tasks: Tasks | None = None) -> None:
        self._tasks = tasks or Tasks({})
        self._state: State = "ready"
        self._scenario = ""
        self._rate: float | None = None
        self._start_ns = 0
        self._elapsed_s = 0.0
        self._contenders: dict[str, _Contender] = {}
        self._workers: dict[str, dict[str, Any]] = {}

    def begin(self, scenario: str, rate: float | None, urls: Mapping[str, str], start_ns: int | None = None) -> None:
        """Forget the last run and begin one: ``urls`` by contender, the start by the monotonic clock (now)."""
        self._state, self._scenario, self._rate, self._elapsed_s = "running", scenario, rate, 0.0
        self._start_ns = time.monotonic_ns() if start_ns is None else start_ns
        self._tasks.begin(self._start_ns)
        self._contenders = {name: _Contender(url) for name, url in urls.items()}
        for worker in self._workers.values():
            worker["samples"] = 0

    def set_rate(self, rate: float | None) -> None:
        """Take note of how many requests a second are meant now."""
        self._rate = rate

    def end(self) -> None:
        """Take note that the run is being ended: arrivals that have begun, and answers, may still come."""
        if self._state == "running":
            self._state = "ending"

    def stop(self, at_ns: int) -> None:
        """End the run, whose last arrivals were at ``at_ns`` of the monotonic clock; samples may still come."""
        if self._state in ("running", "ending"):
            self._elapsed_s = max(0.0, (at_ns - self._start_ns) / NS_PER_S)
            self._state = "stopped"

    def add(self, samples: Iterable[Sample], worker: str | None = None) -> None:
        """Take samples; ``worker`` is the id of the Locust worker that sent them, None where it is this process."""
        count = 0
        for sample in samples:
            count += 1
            second = (sample.intended_ns - self._start_ns) // NS_PER_S
            self._contenders[sample.contender or UNNAMED].add(second, sample)
            self._tasks.add(sample)
        if worker is not None:
            self._workers.setdefault(worker, {"state": "running", "samples": 0})["samples"] += count

    def set_worker(self, worker: str, state: str) -> None:
        """Take note of how a Locust worker is."""
        self._workers.setdefault(worker, {"state": state, "samples": 0})["state"] = state

    def snapshot(self) -> dict[str, Any]:
        """Return what the page shows, as JSON takes it: a time is in ms, None where there is nothing, or "inf"."""
        elapsed_s = self._since_start_s() if self._state in ("running", "ending") else self._elapsed_s
        return {
            "state": self._state,
            "scenario": self._scenario,
            "rate": self._rate,
            "elapsed_s": round(elapsed_s, 3),
            "workers": {worker: dict(known) for worker, known in self._workers.items()},
            "contenders": {
                name: one.as_dict(elapsed_s) | {"tasks": self._tasks.of(name)} for name, one in self._contenders.items()
            },
        }

    def _since_start_s(self) -> float:
        return max(0.0, (time.monotonic_ns() - self._start_ns) / NS_PER_S)
