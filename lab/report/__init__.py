"""The report: pure functions of a run directory."""
