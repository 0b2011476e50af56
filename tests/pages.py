"""What the pages of the documentation show: programs, and what they print."""

from __future__ import annotations

import re
from pathlib import Path

_PROGRAM = re.compile(r"^```python\n(.*?)^```\n(?:\n```\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def programs(page: Path) -> list[tuple[str, str]]:
    """The Python blocks that are whole programs, those that import mlopt, with what they print.

    The latter is the block without a language that follows directly; empty if there is none.
    """
    found = _PROGRAM.findall(page.read_text(encoding="utf-8"))
    return [pair for pair in found if re.search(r"^import mlopt\b", pair[0], re.MULTILINE)]
