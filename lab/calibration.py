"""The machine's calibration: found among the runs, and copied into each new one."""

from pathlib import Path

from lab.environment import gib
from lab.report.summary import Calibration
from lab.rundir import CALIBRATIONS, Environment, RunDir

FILE = "calibration.json"


def cite(directory: RunDir, here: Environment) -> None:
    """Copy the newest calibration of this machine from the runs beside a run into it, if there is one.

    One that could judge no server of known latency, and found nothing wrong, gives way to an older one that could: the
    truth that is known would be lost. One that found the instrument wrong counts as any other: the report says so. What
    the newest `lab calibrate --aa` says of the verdicts goes with it. Raises LabError where the disk does not let it.
    """
    paths = [path for command in CALIBRATIONS for path in directory.path.parent.glob(f"*-{command}/{FILE}")]
    made = [found for path in paths if (found := _read(path)) and _machine(found.environment) == _machine(here)]
    if made:
        newest = max(made, key=lambda found: (_judged(found), found.on_known, found.made_at))
        verdicts = max((found.aa for found in made if found.aa), key=lambda aa: aa.made_at, default=None)
        directory.write_text(FILE, newest.model_copy(update={"aa": verdicts}).model_dump_json(indent=2))


def _judged(found: Calibration) -> bool:
    """Return whether a calibration has judged a server of known latency, or has found the instrument wrong."""
    return bool(found.servers) or any(planted.wrong for planted in found.planted)


def _read(path: Path) -> Calibration | None:
    """Return a calibration; None where another version of the lab wrote it, or it is gone."""
    try:
        return Calibration.model_validate_json(path.read_text())
    except (OSError, ValueError):
        return None


def _machine(environment: Environment) -> tuple[object, ...]:
    """Return what tells machines apart, as far as the instrument is concerned."""
    return environment.cpu, environment.cores, environment.affinity, gib(environment.memory_bytes)
