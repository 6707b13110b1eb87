"""Open-loop arrivals: when each request is meant to be sent, drawn before the start."""

import heapq
import math
import time
from collections.abc import Iterator
from itertools import count, takewhile
from random import Random
from typing import Literal, NamedTuple

import gevent
from gevent import monkey

ArrivalKind = Literal["poisson", "constant"]
Stream = Literal["load", "loop", "thread"]

NS_PER_S = 1_000_000_000
# The event loop sleeps in whole milliseconds and rounds up, so the last stretch before an arrival is spent polling.
# Between two looks the thread naps, so that whoever shares its CPU gets on; an answer that comes then is stamped late
# by as much. It does not nap where it might oversleep.
POLL_NS = 1_200_000
NAP_S = 50e-6
AWAKE_NS = 200_000
nap = monkey.get_original("time", "sleep")
HIGHEST_PRIORITY = 2


class Arrival(NamedTuple):
    """One intended request: when, counted from the start, and which stream it belongs to."""

    offset_ns: int
    stream: Stream


def gap_s(rng: Random, rate_per_s: float) -> float:
    """Draw the time between two arrivals of a Poisson process, in seconds.

    Only ``Random.random`` is used: of the generator's methods, its sequence alone is promised not to change
    between Python versions.
    """
    return -math.log(1.0 - rng.random()) / rate_per_s


def poisson(rng: Random, rate_per_s: float, span_s: float) -> Iterator[int]:
    """Yield the offsets, in nanoseconds, of Poisson arrivals in ``[0, span_s)``."""
    at_s = gap_s(rng, rate_per_s)
    while at_s < span_s:
        yield round(at_s * NS_PER_S)
        at_s += gap_s(rng, rate_per_s)


def constant(rate_per_s: float, span_s: float, phase: float = 0.0) -> Iterator[int]:
    """Yield the offsets, in nanoseconds, of even arrivals in ``[0, span_s)``; ``phase`` is the first, in gaps."""
    times_s = ((n + phase) / rate_per_s for n in count())
    return (round(at_s * NS_PER_S) for at_s in takewhile(lambda at_s: at_s < span_s, times_s))


def schedule(kind: ArrivalKind, rate_per_s: float, span_s: float, bystanders_per_s: float, seed: int) -> list[Arrival]:
    """Return all arrivals of a run in order: the load, and the two bystander streams where there are any.

    The bystanders are evenly spaced, with phases that keep them off each other and off a constant load.
    """
    load = (
        poisson(Random(f"{seed}/arrivals"), rate_per_s, span_s) if kind == "poisson" else constant(rate_per_s, span_s)
    )
    return list(heapq.merge((Arrival(at_ns, "load") for at_ns in load), bystanders(bystanders_per_s, span_s)))


def bystanders(rate_per_s: float, span_s: float = math.inf) -> Iterator[Arrival]:
    """Return the arrivals of both bystander streams in order; none at a rate of 0."""
    if rate_per_s <= 0:
        return iter(())
    loop = (Arrival(at_ns, "loop") for at_ns in constant(rate_per_s, span_s, phase=0.23))
    thread = (Arrival(at_ns, "thread") for at_ns in constant(rate_per_s, span_s, phase=0.73))
    return heapq.merge(loop, thread)


def wait_until(t_ns: int) -> None:
    """Return at ``t_ns`` of the monotonic clock, or as soon after it as the event loop allows; always yield once."""
    while (left_ns := t_ns - time.monotonic_ns()) > POLL_NS:
        gevent.sleep((left_ns - POLL_NS) / NS_PER_S)
    _poll()
    while (left_ns := t_ns - time.monotonic_ns()) > 0:
        if left_ns > AWAKE_NS:
            nap(NAP_S)
        _poll()


def _poll() -> None:
    """Let the event loop turn once.

    ``gevent.sleep(0)`` would not do: gevent runs such wake-ups one after another for up to 5 ms before it looks at a
    socket again, and answers would be stamped late by as much.
    """
    gevent.idle(priority=HIGHEST_PRIORITY)
