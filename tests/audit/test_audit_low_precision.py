"""An engine in low precision, compared with the same in float64: what the precision costs."""

from __future__ import annotations

from typing import Any

import pytest
from compare import kills, near
from evaluation.low_precision import World

import mlopt
from mlopt import Central, Exact, OneStep


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("product", [Exact(), Central()], ids=str)
def test_only_the_row_of_rounding_has_its_error(precision: Any, product: Any) -> None:
    report = mlopt.audit(World(OneStep(product=product)).engine(precision))
    assert report.precision == "float64"
    errors = {f.kind: f.error for f in report.findings}
    near(errors["total"], 0.0, 1e-4, scale=1.0, why="radius^2 of the product by differences")
    why = "thirty roundings by 2^-8, independent of one another: 2.2 %"
    near(errors["rounding"], 0.0, 0.03, scale=1.0, why=why)
    kills(errors["rounding"], 0.0, 1e-4, scale=1.0)
