"""The optimizers of the weights, of the architectures and of a GAN, with their schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

import mlopt
from mlopt.generators import GANS

from ..settings import Settings


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


def gan_adam(variable: mlopt.Variable, s: Settings) -> dict[str, Any]:
    """Optimizer and scheduler of a GAN's two players: Adam, cosine over the whole run."""
    beta1, beta2 = GANS[s.generator].betas
    optimizer = torch.optim.Adam(
        variable.parameters(), s.gan_lr, betas=(beta1 if s.gan_beta1 < 0 else s.gan_beta1, beta2)
    )
    epochs = s.generator_epochs + s.pretrain + s.epochs
    scheduler = CosineAnnealingLR(optimizer, epochs, eta_min=min(s.gan_min_lr, s.gan_lr))
    return {"optimizer": optimizer, "scheduler": scheduler}
