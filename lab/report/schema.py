"""Writes the JSON Schema of ``summary.json``: ``python -m lab.report.schema > docs/summary.schema.json``."""

import json

from lab.report.summary import Summary


def schema_text() -> str:
    """Return the JSON Schema of ``summary.json`` as text."""
    return json.dumps(Summary.model_json_schema(mode="serialization"), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
