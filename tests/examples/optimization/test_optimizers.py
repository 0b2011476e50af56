"""The schedules of the learning rates."""

from __future__ import annotations

import torch
from compare import exact, near, rounding

import mlopt
from support import settings
from support.optimization import sgd


def test_learning_rates_of_the_weights() -> None:
    """PC-DARTS on ImageNet: five epochs up to 0.5, then the cosine of all fifty down to 0."""
    s = settings.parse(None, ["--epochs", "50", "--lr", "0.5", "--min-lr", "0", "--lr-warmup", "5"])
    w = mlopt.Variable(torch.nn.Linear(1, 1), "w")
    options = sgd(w, s)
    rates = []
    for _ in range(50):
        rates.append(options["optimizer"].param_groups[0]["lr"])
        options["optimizer"].step()
        options["scheduler"].step()
    exact(rates[:5], [0.1, 0.2, 0.3, 0.4, 0.5], rounding(10))
    exact(rates[25], 0.25, rounding(40))  # by a cosine of zero
    near(rates[49], 0.5 * 9.866e-4, 0.5 / 9866, why="four digits")
    s = settings.parse(None, ["--epochs", "50", "--lr", "0.025", "--min-lr", "0.001"])
    options = sgd(w, s)
    factor = options["scheduler"].lr_lambdas[0]
    expected = [0.025, 0.02497632, 0.0227082, 0.013, 0.0032918, 0.00102368]  # DARTS
    for epoch, rate in zip((0, 1, 10, 25, 40, 49), expected, strict=True):
        near(0.025 * factor(epoch), rate, 0.5e-8 / rate, why="eight digits")
