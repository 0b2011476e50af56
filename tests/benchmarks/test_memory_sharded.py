"""Memory of a step whose lower level is sharded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory_sharded.py"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize("product", ["central", "exact"])
def test_two_ranks_have_three_fifths_of_the_memory_of_one_at_the_most(
    product: str, tmp_path: Path
) -> None:
    output = tmp_path / "memory.md"
    command = [sys.executable, str(SCRIPT), "--products", product, "--output", str(output)]
    subprocess.run(command, check=True)
    row = next(line for line in output.read_text().splitlines() if line.startswith(f"| {product}"))
    assert float(row.split("|")[4]) <= 0.6
