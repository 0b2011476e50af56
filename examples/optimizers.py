"""What the schemes are optimized with: of the weights, of the architectures, and look-aheads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

import mlopt
from support.settings import Settings


def sgd(variable: mlopt.Variable, s: Settings) -> dict[str, Any]:
    """Optimizer, scheduler and clip of a network's weights: SGD, cosine over the search."""
    optimizer = torch.optim.SGD(
        variable.parameters(), s.lr, momentum=s.momentum, weight_decay=s.weight_decay
    )
    epochs, last = s.epochs + s.pretrain, min(s.min_lr, s.lr) / s.lr

    def factor(epoch: int) -> float:
        if epoch < s.lr_warmup:
            return (epoch + 1) / s.lr_warmup
        return last + (1 - last) * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "scheduler": scheduler, "clip": s.clip}


def adam(variable: mlopt.Variable | Sequence[mlopt.Variable], s: Settings) -> dict[str, Any]:
    """Optimizer and clip of an architecture, or of several."""
    variables = [variable] if isinstance(variable, mlopt.Variable) else variable
    parameters = [p for v in variables for p in v.parameters()]
    optimizer = torch.optim.Adam(
        parameters, s.arch_lr, betas=(0.5, 0.999), weight_decay=s.arch_weight_decay
    )
    return {"optimizer": optimizer, "clip": s.arch_clip or None}


def hypergradient_method(s: Settings, lr: float | None = None) -> mlopt.AbstractHypergradient:
    """First order, or one step ahead: by the optimizer, or the plain gradient step of this lr.

    Raises:
        SettingsError: the products would be finite differences in bfloat16.
    """
    if s.order == "first":
        return mlopt.Frozen()
    if s.bf16 and s.product != "exact":
        raise mlopt.SettingsError(
            f"--bf16 with --product {s.product}: a finite difference in bfloat16 is as much "
            "rounding as difference. Use --order first or --product exact."
        )
    product: mlopt.AbstractProduct = {
        "central": mlopt.Central(s.radius),
        "one-sided": mlopt.OneSided(s.radius),
        "exact": mlopt.Exact(),
    }[s.product]
    return mlopt.OneStep(lr=lr, product=product)


def engine_options(s: Settings) -> dict[str, Any]:
    """What every scheme asks of its engine; in first order, its levels follow one another."""
    return {
        "hypergrad": hypergradient_method(s),
        "schedule": mlopt.Sequential() if s.order == "first" else mlopt.Simultaneous(),
        "device": s.device,
        "seed": s.seed,
        "compile": bool(s.compile) and {"backend": s.compile},
    }
