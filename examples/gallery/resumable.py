"""What a program of the gallery needs to go on, with `--resume`, where it was interrupted."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

from support.pipeline import parsed, program, saved  # noqa: E402

__all__ = ["parsed", "program", "saved"]
