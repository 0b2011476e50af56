"""The table of errors in low precision: each product within 3 % of float64, by few steps here."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import kills, near

import mlopt

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from precision import ALLOWED, METHODS, NETWORKS, Case, main  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "precision_cpu.md"
# Each operation rounds by half of 2^-7 of a number's size (2^-10 in fp16). A hypergradient goes
# through the network four times, up and down: some thirty operations, of which the roundings add up
# as those of independent numbers do, by their root.
WHY = "thirty roundings by 2^-8, independent of one another: 2.2 %"
FEW = ("OneStep, Exact", "OneStep, Central", "Unrolled, 5 steps", "Implicit, CG")


@pytest.mark.parametrize(
    ("name", "network"),
    [*((name, "MLP, softplus") for name in METHODS), *((n, "convnet, BatchNorm") for n in FEW)],
)
def test_each_product_is_within_three_percent(name: str, network: str) -> None:
    case = Case(network, 0, steps=3)
    expected = case.hypergradient(METHODS[name], torch.float64)
    for precision in ("bf16", "fp16"):
        found = case.hypergradient(METHODS[name], torch.float32, precision)
        near(found, expected, ALLOWED, why=WHY, what=precision)
    kills(0 * expected, expected, ALLOWED)  # it is not zero


def test_the_table_is_written(tmp_path: Path) -> None:
    path = tmp_path / "precision.md"
    options: list[Any] = ["--seeds", "1", "--steps", "1", "--output", path]
    networks, methods = ["MLP, tanh"], ["OneStep, Exact", "OneStep, Central"]
    assert main([*map(str, options), "--networks", *networks, "--methods", *methods]) == 0
    rows = dict(rows_of(path))
    assert list(rows) == methods
    assert rows["OneStep, Exact"][0] == "none"
    assert rows["OneStep, Central"][0] == "displaced ones"


def rows_of(path: Path) -> list[tuple[str, list[str]]]:
    """The method of each row, and its other columns."""
    lines = path.read_text().split("\n\n")[-1].splitlines()[2:]
    cells = [
        [c.strip() for c in re.split(r"  +|\|", line.strip("|")) if c.strip()] for line in lines
    ]
    return [(first, rest) for first, *rest in cells]


def test_the_table_of_all_is_of_these_methods_and_within_three_percent() -> None:
    rows = rows_of(RESULTS)
    assert [name for name, _ in rows] == list(METHODS)
    assert all(network in RESULTS.read_text() for network in NETWORKS)
    for name, (rule, _, bf16, fp16, without) in rows:
        assert max(float(bf16), float(fp16)) < ALLOWED, name
        # the rule is for those, and for those alone, that need it
        assert (float(without) > ALLOWED) is (rule != "none"), name


def test_a_hypergradient_that_nothing_reaches_is_no_case() -> None:
    """All of it goes through the method: without it there is none."""
    case = Case("MLP, tanh", 0, steps=1)
    with pytest.raises(mlopt.GraphError, match="never uses r"):
        case.hypergradient(mlopt.Frozen(), torch.float64)
