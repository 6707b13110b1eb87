"""The report: pure functions of a run directory."""

from pathlib import Path

from lab.report.metrics import summarise
from lab.report.render import to_html, to_markdown
from lab.report.summary import Summary
from lab.rundir import RunDir


def write(run: Path) -> Summary:
    """Write ``summary.json``, ``report.html`` and ``report.md`` of a run directory, and return the summary.

    It settles nothing and reads what is there: blocks that are missing or void are named. Raises FileNotFoundError
    or ValueError where ``run.json`` is missing or not one of ours.
    """
    directory = RunDir(run)
    record, summary = directory.read(), summarise(run)
    directory.write_text("summary.json", summary.to_json())
    directory.write_text("report.html", to_html(summary, record))
    directory.write_text("report.md", to_markdown(summary, record))
    return summary
