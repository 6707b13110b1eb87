"""What ``locust -f loadtests/locustfile.py`` loads: an open loop inside Locust.

With ``--headless --rate`` a fixed schedule is played, after which Locust exits. Otherwise, and in the web UI, each
Locust user is a source of one arrival per second on average, so that the number of users is the rate.
"""

import logging
import re
import secrets
import signal
import sys
import time
from random import Random
from typing import Any

import gevent
import psutil
from flask import Response, jsonify, request
from gevent.event import Event
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import CatchResponseError
from locust.runners import (
    STATE_INIT,
    STATE_MISSING,
    STATE_RUNNING,
    STATE_SPAWNING,
    STATE_STOPPED,
    MasterRunner,
    WorkerNode,
    WorkerRunner,
)
from locust.web import WebUI

from loadtests.arrivals import NS_PER_S, gap_s, wait_until
from loadtests.distributed import Inbox, Outbox, share_of, tell_workers
from loadtests.live import UNNAMED, Live
from loadtests.options import COMMAND_LINE_ONLY, LoadOptions, add_arguments, check_mode, read_options
from loadtests.plan import LEAD_NS, Plan
from loadtests.recorder import Recorder, Sample
from loadtests.run import LoadRun, Share, permitted_to
from loadtests.shared import Conductor, Part
from loadtests.target import UsageError
from loadtests.tasks import Tasks
from loadtests.users import scenario
from loadtests.webui import add_page

log = logging.getLogger("loadtests")

# All that Locust's form Edit sends, which changes a load that runs; the start form sends every option.
EDITED = {"user_count", "spawn_rate"}
# How much longer a worker that has stopped may take to be ready again than it should; then it is not waited for.
READY_AGAIN_S = 5.0
# Within this a master's messages that are on their way to its workers have left.
START_LEAVES_S = 0.05


class OneArrivalPerSecond(User):
    """An arrival process of one request per second on average, which never waits for an answer."""

    load: LoadRun
    has_load = Event()
    started = 0

    def on_start(self) -> None:
        """Begin at a random moment of the first second.

        In a worker that joins during a load, users are spawned before it listens, and there is no run yet.
        """
        self.has_load.wait()
        kind = type(self)
        kind.started += 1
        self._rng = Random(f"{self.load.plan.seed}/user/{kind.started}")
        self._next_ns = time.monotonic_ns() + round(self._rng.random() * NS_PER_S)

    @task
    def arrive(self) -> None:
        """Wait for the next arrival and send it."""
        wait_until(self._next_ns)
        self.load.arrive(self._next_ns)
        gap = gap_s(self._rng, 1.0) if self.load.plan.options.arrivals == "poisson" else 1.0
        self._next_ns += round(gap * NS_PER_S)


class LoadSession:
    """The load of one Locust process: one run after another, begun and ended by Locust's own events.

    ``live`` gets each sample; it is None where nobody looks. A worker's samples go to its master. Of a fixed schedule,
    a worker sends its part, and a master only conducts.
    """

    def __init__(self, environment: Environment, live: Live | None) -> None:
        self._live = live
        self._environment = environment
        self._run: LoadRun | None = None
        self._player: gevent.Greenlet | None = None
        runner = environment.runner
        self._outbox = Outbox(environment, runner) if isinstance(runner, WorkerRunner) else None
        self._inbox = Inbox(environment, runner, live) if isinstance(runner, MasterRunner) and live else None
        self._part = Part(environment, runner, self._report) if isinstance(runner, WorkerRunner) else None
        self._conductor: Conductor | None = None
        self._ending = False
        self._told_to_stop: dict[str, WorkerNode] = {}
        self._ready_again_by_s = 0.0
        hooks: Any = environment.events
        hooks.test_start.add_listener(self.start)
        hooks.test_stopping.add_listener(self._stopping)
        hooks.test_stop.add_listener(self.stop)
        hooks.spawning_complete.add_listener(self._users_are)
        self._fire_request = hooks.request.fire
        if isinstance(runner, WorkerRunner) and runner.worker_state in (STATE_SPAWNING, STATE_RUNNING):
            self.start()  # a worker hears its master before it gets here: this one had been told to start already

    def start(self, **_: Any) -> None:
        """Begin a run with the options as they are now."""
        self._told_to_stop = {}
        runner = self._environment.runner
        if isinstance(runner, WorkerRunner) and runner.state == STATE_STOPPED:
            # Locust does so only when all users are there, and until then would not heed a stop.
            runner.update_state(STATE_SPAWNING)
        try:
            options = read_options(vars(self._environment.parsed_options) | {"host": self._environment.host})
            self._several = len(options.targets) > 1
            if options.rate is None:
                self._begin_open_end(options)
            else:
                self._begin_schedule(options)
        except (UsageError, OSError) as error:
            self._fail(error)

    def _begin_open_end(self, options: LoadOptions) -> None:
        runner, share = self._environment.runner, Share()
        if isinstance(runner, MasterRunner):
            tell_workers(self._environment, runner)
        elif isinstance(runner, WorkerRunner):
            share = share_of(self._environment, runner)
        # Another load may follow on the same apps, and their journals tell its tasks by their ids, whatever the seed.
        run = self._new_run(options.model_copy(update={"ids": secrets.token_hex(8)}), lead_ns=0, share=share)
        OneArrivalPerSecond.load, OneArrivalPerSecond.started = run, 0
        OneArrivalPerSecond.has_load.set()
        if self._live is not None:
            urls = {name or UNNAMED: url or "" for name, url in options.targets.items()}
            self._live.begin(options.scenario, self._rate(), urls, run.plan.start_ns)
        for box in (self._inbox, self._outbox):
            if box is not None:
                box.begin()
        if not isinstance(runner, MasterRunner):
            run.accompany()

    def _begin_schedule(self, options: LoadOptions) -> None:
        runner = self._environment.runner
        if self._part is not None:
            self._part.begin(options)
            return
        self._environment.process_exit_code = 1  # until the schedule has been played
        if isinstance(runner, MasterRunner):
            self._conductor = Conductor(self._environment, runner, options, self._over, self._fail)
        else:
            self._player = gevent.spawn(self._play, self._new_run(options, LEAD_NS))

    def _new_run(self, options: LoadOptions, lead_ns: int, share: Share | None = None) -> LoadRun:
        """Begin a run of this process alone."""
        plan = Plan(options, secrets.randbits(32) if options.seed is None else options.seed)
        recorder = Recorder(options.samples, self._fail)
        self._run = LoadRun(plan, recorder, self._report, share)
        self._run.begin(time.monotonic_ns() + lead_ns)
        recorder.write_header(plan.header())
        return self._run

    def stop(self, **_: Any) -> None:
        """End the run; what is in flight gets Locust's ``--stop-timeout``."""
        asked_ns, stop_timeout_s = time.monotonic_ns(), self._environment.stop_timeout
        try:
            if self._player is not None:
                self._player.kill()
            for run in (self._run, self._part, self._conductor):
                if run is not None:
                    run.end(stop_timeout_s)
            if self._outbox is not None:
                self._outbox.send()
        finally:
            if self._live is not None:
                self._live.stop(asked_ns)
            # A worker still awaits its last answers, and then sleeps as long again before it says that it is ready.
            self._ready_again_by_s = time.monotonic() + 2 * stop_timeout_s + READY_AGAIN_S
            self._ending = False

    def _stopping(self, **_: Any) -> None:
        runner = self._environment.runner
        self._ending = True
        self._told_to_stop = dict(runner.clients) if isinstance(runner, MasterRunner) else {}
        if self._live is not None:
            self._live.end()
        if isinstance(runner, MasterRunner):
            # Locust's master sends the start from greenlets of their own, and the stop, which comes next, from this
            # one: a worker that hears of the stop first would begin after it, and nobody would stop it.
            gevent.sleep(START_LEAVES_S)

    def is_ending(self) -> bool:
        """Return whether a run is being ended, or a worker that was told to stop is not ready for another yet.

        Locust calls itself stopped while answers are still awaited, and a worker ready that has not yet said that it
        began. It forgets a worker that has stopped, and makes a new node of it when it is ready again.
        """
        runner = self._environment.runner
        if self._ending or not isinstance(runner, MasterRunner):
            return self._ending
        if time.monotonic() > self._ready_again_by_s:
            return False
        return not all(_is_ready_again(node, runner.clients.get(name)) for name, node in self._told_to_stop.items())

    def snapshot(self) -> dict[str, Any]:
        """Return what the page shows: a run is ending until another may begin."""
        assert self._live is not None
        seen = self._live.snapshot()
        return seen | {"state": "ending"} if seen["state"] == "stopped" and self.is_ending() else seen

    def _rate(self) -> float | None:
        runner = self._environment.runner
        return None if runner is None else float(runner.target_user_count)

    def _users_are(self, user_count: int, **_: Any) -> None:
        if self._live is not None:
            self._live.set_rate(float(user_count))

    def _play(self, run: LoadRun) -> None:
        try:
            run.play()
            self._over(0)
        except Exception:
            log.exception("The schedule broke off.")
            self._over(1)

    def _over(self, status: int) -> None:
        """End the process with a status."""
        self._environment.process_exit_code = status
        gevent.spawn(self._quit)

    def _fail(self, error: Exception) -> None:
        log.error("The load cannot go on: %s", error)
        self._over(1)

    def _quit(self) -> None:
        assert self._environment.runner is not None
        if self._environment.web_ui is None:
            self._environment.runner.quit()
        else:
            self._environment.runner.stop()

    def _report(self, sample: Sample, length: int) -> None:
        """Put a request into Locust's own table, and into the live figures where there are any."""
        if self._live is not None:
            self._live.add([sample])
        if self._outbox is not None:
            self._outbox.add(sample)
        method, _, path = sample.route.partition(" ")
        ended_ns = sample.ended_ns
        self._fire_request(
            request_type=method,
            name=f"{sample.contender} {path}" if self._several else path,
            response_time=None if ended_ns is None else (ended_ns - sample.intended_ns) / 1e6,
            response_length=length,
            exception=None if sample.error is None else CatchResponseError(sample.error),
            context={},
        )


def _check(values: dict[str, Any], host: str | None) -> LoadOptions:
    """Return the options. Raises UsageError, or OSError for the samples file, where no run can be made of them."""
    options = read_options(values | {"host": host})
    check_mode(values)
    for name, url in options.targets.items():
        permitted_to(name, url, options.i_may_load)
    scenario(options.scenario, options.probe_work, options.probe_seconds, options.requests)
    if options.samples is not None:
        options.samples.open("ab").close()
    for name, folder in options.contender_data.items():
        if not folder.is_dir():
            raise UsageError(f"--contender-data {name}={folder}: there is no such folder.")
    return options


def _refuse_form(environment: Environment, web_ui: WebUI, session: LoadSession) -> Response | None:
    """Answer the web UI's start form where a run cannot be made of it; otherwise Locust goes on.

    Locust itself would take a start for a change of the number of users where a load runs, and keep all its values;
    and it would begin another while the last one ends.
    """
    if not request.path.endswith("/swarm"):
        return None
    form = request.form.to_dict()
    try:
        if foreign := sorted(
            (COMMAND_LINE_ONLY.keys() | {"i_may_load", "contender_url", "contender_data"}) & form.keys()
        ):
            raise UsageError(f"--{foreign[0].replace('_', '-')} can be given on the command line only.")
        _check(vars(environment.parsed_options) | form, form.get("host", environment.host))
        _check_users(environment, form.get("user_count"), request.form.getlist("user_classes"))
        # Last, since nothing may yield between this and Locust's own beginning.
        if session.is_ending():
            raise UsageError("The last load is still ending: start another in a moment.")
        if not form.keys() <= EDITED and _is_loading(environment, web_ui):
            raise UsageError("A load is running: stop it before you start another. Edit changes its number of users.")
        if _has_nobody_to_send(environment):
            raise UsageError("No Locust worker is ready: nobody would send anything. Start one, or wait for it.")
    except (UsageError, OSError) as error:
        return jsonify({"success": False, "message": str(error), "host": environment.host})
    return None


def _check_users(environment: Environment, count: str | None, classes: list[str]) -> None:
    """Raise UsageError for a number of users that sends nothing, and for users that do not exist.

    What is no number, Locust refuses.
    """
    if count is not None and re.fullmatch(r"\s*[-+]?\d{1,9}\s*", count) and int(count) < 1:
        raise UsageError(f"{int(count)} users send nothing: their number is the arrival rate per second.")
    known = {kind.__name__ for kind in environment.user_classes} | set(environment.available_user_classes or {})
    if unknown := sorted(set(classes) - known):
        raise UsageError(f"There are no users {unknown[0]!r}, but {', '.join(sorted(known))}.")


def _has_nobody_to_send(environment: Environment) -> bool:
    """Say whether there is not one worker to a master: Locust would say that it has begun, and not begin."""
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        return False
    clients = runner.clients
    return not (clients.ready or clients.spawning or clients.running)


def _is_ready_again(told: WorkerNode, now: WorkerNode | None) -> bool:
    """Say whether a worker whose node was ``told`` to stop has done so and may be told to begin, or is missing."""
    return now is not None and (now.state == STATE_MISSING or (now.state == STATE_INIT and now is not told))


def _is_loading(environment: Environment, web_ui: WebUI) -> bool:
    """Say whether a load runs, or begins: it does so in greenlets of its own, and its state is set later."""
    runner = environment.runner
    beginning = (web_ui._swarm_greenlet, getattr(runner, "spawning_greenlet", None))
    if any(greenlet is not None and not greenlet.ready() for greenlet in beginning):
        return True
    return runner is not None and runner.state in (STATE_SPAWNING, STATE_RUNNING)


def _init(environment: Environment, web_ui: WebUI | None, **_: Any) -> None:
    """Check the command line before anything starts: one sentence and exit status 2 where it is wrong."""
    values = vars(environment.parsed_options)
    waits_for_form = not values["headless"] and not environment.host
    try:
        if values["contender_url"] and environment.host:
            raise UsageError("--host and --contender-url exclude each other: give every server a name, or none.")
        options = _check(values, "http://127.0.0.1" if waits_for_form else environment.host)
    except (UsageError, OSError) as error:
        if not (values["worker"] and values["processes"]):  # a forked worker has its master's options: once is enough
            print(error, file=sys.stderr)
        if values["processes"] and not values["worker"]:
            for forked in psutil.Process().children():  # which would wait for minutes for a master that is gone
                forked.terminate()
        sys.exit(2)
    for name in ("requests", "samples"):  # a master sends the options to its workers: no Path among them
        values[name] = values[name] and str(values[name])
    if values["rate"] is not None:
        values["num_users"] = 0  # the schedule needs none
        values["only_summary"] = True  # printing the table every two seconds would hold the schedule up
    # By itself Python would raise the interrupt in whatever greenlet runs just then, perhaps amid a request.
    gevent.signal_handler(signal.SIGINT, gevent.kill, gevent.getcurrent(), KeyboardInterrupt)
    live = Live(Tasks(options.contender_data)) if web_ui is not None else None
    if values["contender_url"]:
        OneArrivalPerSecond.host = "by contender"  # what the form's field Host shows instead of asking for one
    session = LoadSession(environment, live)
    if web_ui is not None and web_ui.app is not None:
        add_page(web_ui, session.snapshot)
        web_ui.app.before_request(lambda: _refuse_form(environment, web_ui, session))


def _add_arguments(parser: LocustArgumentParser, **_: Any) -> None:
    add_arguments(parser)


hooks: Any = events  # which are untyped
hooks.init_command_line_parser.add_listener(_add_arguments)
hooks.init.add_listener(_init)
