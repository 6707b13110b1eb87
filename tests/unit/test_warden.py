"""How long the warden waits before it looks at what is due."""

import time
from pathlib import Path

from lab.stacks.warden import SCAN_EVERY_S, Service, Warden


def test_a_restart_is_waited_for_no_longer_than_until_it_is_due(tmp_path: Path) -> None:
    """Whatever else wakes the warden before; without any, it looks for orphans at times."""
    warden = Warden(tmp_path / "records.jsonl")
    assert warden._patience_s() == SCAN_EVERY_S / 2
    warden.services["api"] = Service("api", [], {}, None, None, "", restart=True, user=None, stop_signal=15)
    for due_in_s, at_least_s, at_most_s in ((-1, 0, 0), (0.2, 0, 0.2), (60, SCAN_EVERY_S / 2, SCAN_EVERY_S / 2)):
        warden.services["api"].restart_at = time.monotonic() + due_in_s
        assert at_least_s <= warden._patience_s() <= at_most_s
