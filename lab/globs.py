"""Paths for DuckDB and Redis, which take the name of what they read for a pattern."""

import re
from pathlib import Path


def no_glob(path: Path) -> str:
    """Return the pattern that matches this path alone, whatever characters are in it.

    What DuckDB writes it takes as it is. A path with a backslash beside such characters it cannot find at all.
    """
    return re.sub(r"[*?[]", r"[\g<0>]", str(path))
