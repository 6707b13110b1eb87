"""The report as one HTML file that works offline, and as GitHub-flavoured Markdown."""

import re
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from lab.report import crossover, tables, words
from lab.report.levels import level_charts
from lab.report.plot import dot_plot
from lab.report.summary import Summary
from lab.report.tables import Table
from lab.rundir import RunRecord

VERDICTS = r"(?:faster|slower) by ×[\d.]+|no significant difference|(?<=: )unknown"


def to_html(summary: Summary, run: RunRecord) -> str:
    """Return the report as one self-contained HTML page."""
    return _render("report.html.jinja", summary, run)


def to_markdown(summary: Summary, run: RunRecord) -> str:
    """Return the report as GitHub-flavoured Markdown."""
    return _render("report.md.jinja", summary, run)


@cache  # compiling the templates takes longer than rendering them
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["code"] = code
    environment.filters["table"] = markdown_table
    return environment


def _render(template: str, summary: Summary, run: RunRecord) -> str:
    shown = [c for c in summary.comparisons if c.scenario not in summary.in_a_grid]
    return (
        _templates()
        .get_template(template)
        .render(
            summary=summary,
            run=run,
            tables=tables,
            words=words,
            crossover=crossover,
            plot=dot_plot(shown),
            scenarios=[scenario for scenario in run.plan.scenarios if not scenario.grid],
            level_charts=level_charts,
        )
    )


def code(sentence: str) -> Markup:
    """Return a sentence as HTML: escaped, names between backticks as code, the verdict strong."""
    html = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(sentence)))
    return Markup(re.sub(f"({VERDICTS})", r"<strong>\1</strong>", html))  # noqa: S704 - escaped just above


def markdown_table(table: Table) -> str:
    """Return a table as GitHub-flavoured Markdown, numbers to the right; a sentence where it has no rows."""
    if not table.rows:
        return "Nothing was measured."
    rule = ["---" if column < table.labels else "---:" for column in range(len(table.head))]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in [table.head, rule, *table.rows])


def _cell(text: str) -> str:
    """Return text that stays in its cell and is not taken for markup."""
    return re.sub(r"([\\|<>*_`\[\]])", r"\\\1", text).replace("\n", " ")
