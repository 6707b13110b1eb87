"""The machine's newest calibration: found among the runs, and copied into each new one."""

from pathlib import Path

from lab.report.summary import Calibration
from lab.rundir import Environment, RunDir

FILE = "calibration.json"


def cite(directory: RunDir, here: Environment) -> None:
    """Copy the newest calibration of this machine from the runs beside a run into it, if there is one.

    One that found the instrument wrong counts as well: the report says so. Raises LabError where the disk does not
    let it.
    """
    made = [found for path in directory.path.parent.glob(f"*-calibrate/{FILE}") if (found := _read(path))]
    ours = [found for found in made if _machine(found.environment) == _machine(here)]
    if ours:
        newest = max(ours, key=lambda found: found.made_at)
        directory.write_text(FILE, newest.model_dump_json(indent=2))


def _read(path: Path) -> Calibration | None:
    """Return a calibration; None where another version of the lab wrote it, or it is gone."""
    try:
        return Calibration.model_validate_json(path.read_text())
    except (OSError, ValueError):
        return None


def _machine(environment: Environment) -> tuple[object, ...]:
    """Return what tells machines apart, as far as the instrument is concerned."""
    return environment.cpu, environment.cores, environment.affinity, environment.memory_bytes
