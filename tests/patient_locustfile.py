"""The locustfile of a master that waits longer for its workers than a test does: no bound hides what it does not see.

``FORGIVEN_HEARTBEATS`` is after how many missed ones, one a second, a worker is missing; Locust's 3 by default.
"""

import os

import locust.runners

import loadtests.locustfile
from loadtests.locustfile import OneArrivalPerSecond as OneArrivalPerSecond

loadtests.locustfile.READY_AGAIN_S = 600.0
locust.runners.HEARTBEAT_LIVENESS = int(os.environ.get("FORGIVEN_HEARTBEATS", "3"))
