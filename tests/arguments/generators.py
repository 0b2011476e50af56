"""Right calls of `mlopt.generators`, on networks as small as they come."""

from __future__ import annotations

import functools
from typing import Any

import torch
from arguments.example import Example, folder, of
from torch import Tensor, nn

from mlopt import generators as g

__all__ = ["EXAMPLES"]

CLASSES = 3


class Small(nn.Module):
    """A generator, and a trunk, of two numbers for each image of 1x2x2 pixels."""

    out_features, classes = 4, CLASSES

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(CLASSES, 4))

    def forward(self, labels: Tensor) -> Tensor:
        return self.weight[labels].view(-1, 1, 2, 2)

    def features(self, x: Tensor, a: Any) -> Tensor:
        return x.flatten(1) * self.weight[0]


class Judge(nn.Module):
    """A discriminator of such images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).squeeze(1)


def labels(count: int = 3) -> Tensor:
    return torch.arange(count)


def sizes(**options: Any) -> dict[str, Any]:
    return {"image_size": 8, "channels": 1, "classes": CLASSES, "width": 1, **options}


def judged(**options: Any) -> dict[str, Any]:
    return {"x": torch.zeros(3, 1, 8, 8), "labels": labels(), **options}


LABELS = {"labels": (torch.tensor([CLASSES]), torch.tensor([-1]), torch.tensor([0.5]))}
CRITICS = {
    name: example
    for make in (g.WGANConvCritic, g.WGANResidualCritic)
    for name, example in {
        f"mlopt.generators.{make.__name__}": of(lambda: sizes()),
        f"mlopt.generators.{make.__name__}.features": of(
            lambda: {"x": judged()["x"]}, on=lambda make=make: make(**sizes())
        ),
        f"mlopt.generators.{make.__name__}.forward": of(
            judged, labels="whole", on=lambda make=make: make(**sizes()), wrong=LABELS
        ),
        f"mlopt.generators.{make.__name__}.judge": of(
            judged,
            labels="whole",
            on=lambda make=make: make(**sizes(conditioning="auxiliary")),
            wrong=LABELS,
        ),
    }.items()
}


@functools.cache
def made(make: Any) -> nn.Module:
    """A network for many calls: none of them changes it but for its running means."""
    return make(**sizes(z=2) if "Generator" in make.__name__ else sizes())


GENERATORS = {
    name: example
    for make in (g.DCGANGenerator, g.WGANConvGenerator, g.WGANResidualGenerator, g.BigGANGenerator)
    for name, example in {
        f"mlopt.generators.{make.__name__}": of(lambda: sizes(z=2), attention="empty"),
        f"mlopt.generators.{make.__name__}.forward": of(
            lambda: {"labels": labels()},
            labels="whole",
            on=lambda make=make: made(make),
            wrong=LABELS,
        ),
    }.items()
}
DISCRIMINATORS = {
    name: example
    for make in (g.DCGANDiscriminator, g.BigGANDiscriminator)
    for name, example in {
        f"mlopt.generators.{make.__name__}": of(lambda: sizes(), attention="empty"),
        f"mlopt.generators.{make.__name__}.forward": of(
            judged, labels="whole", on=lambda make=make: made(make), wrong=LABELS
        ),
    }.items()
}


def logits(*names: str) -> Example:
    """Logits of any shape will do: their mean is taken."""
    return of(
        lambda: {name: torch.zeros(3) for name in names},
        **dict.fromkeys(names, "scalar, shape"),
    )


def family() -> dict[str, Any]:
    return {
        "generator": Small, "discriminator": Judge, "loss": "hinge", "lr": 0.1, "betas": (0.0, 0.9),
    }  # fmt: skip


def trained() -> dict[str, Any]:
    return {
        "generator": Small(),
        "discriminator": Judge(),
        "batches": [(torch.zeros(3, 1, 2, 2), labels())],
        "steps": 1,
    }


def average() -> g.ExponentialAverage:
    return g.ExponentialAverage(nn.Linear(1, 1))


def penalised() -> dict[str, Any]:
    return {
        "critic": Judge(),
        "real": torch.zeros(3, 1, 2, 2),
        "fake": torch.ones(3, 1, 2, 2),
        "condition": (labels(),),
    }


def shared() -> g.SharedDiscriminator:
    return g.SharedDiscriminator(Small(), CLASSES)


def pairs() -> dict[str, Any]:
    images = torch.zeros(3, 1, 2, 2)
    return {"real": images, "fake": images, "labels": labels(), "a": None}


EXAMPLES: dict[str, Example] = {
    **GENERATORS,
    **CRITICS,
    **DISCRIMINATORS,
    "mlopt.generators.ConditionalBatchNorm": of(lambda: {"channels": 2, "classes": 3}),
    "mlopt.generators.ConditionalBatchNorm.forward": of(
        lambda: {"x": torch.zeros(3, 2, 2, 2), "y": labels()},
        on=lambda: g.ConditionalBatchNorm(2, classes=CLASSES),
        y="whole",
    ),
    "mlopt.generators.ExponentialAverage": of(
        lambda: {"module": nn.Linear(1, 1)}, decay="0", start="0", wrong={"decay": (1.0,)}
    ),
    "mlopt.generators.ExponentialAverage.load_state_dict": of(
        lambda: {"state": average().state_dict()}, on=average, wrong={"state": ({}, {"module": 3})}
    ),
    "mlopt.generators.ExponentialAverage.state_dict": of(on=average),
    "mlopt.generators.ExponentialAverage.update": of(on=average),
    "mlopt.generators.GANFamily": of(
        family, gradient_penalty="0", ema="0", ema_start="0", betas="0 inside"
    ),
    "mlopt.generators.GANFamily.training": of(on=lambda: g.GANFamily(**family())),
    "mlopt.generators.SelfAttention": of(lambda: {"channels": 2}),
    "mlopt.generators.SelfAttention.forward": of(
        lambda: {"x": torch.zeros(1, 2, 4, 4)}, on=lambda: g.SelfAttention(2)
    ),
    "mlopt.generators.SharedDiscriminator": of(
        lambda: {"trunk": Small(), "classes": CLASSES}, wrong={"trunk": (nn.Linear(1, 1),)}
    ),
    "mlopt.generators.SharedDiscriminator.forward": of(
        lambda: {"x": torch.zeros(3, 1, 2, 2), "labels": labels(), "a": None},
        on=shared,
        a="anything",
        labels="whole",
        wrong=LABELS,
    ),
    "mlopt.generators.SharedDiscriminator.pair": of(
        pairs, on=shared, a="anything", labels="whole", wrong=LABELS
    ),
    "mlopt.generators.couples_samples": of(lambda: {"critic": Judge()}),
    "mlopt.generators.discriminator_loss": logits("real_logits", "fake_logits"),
    "mlopt.generators.generator_loss": logits("fake_logits"),
    "mlopt.generators.hinge_discriminator_loss": logits("real_logits", "fake_logits"),
    "mlopt.generators.hinge_generator_loss": logits("fake_logits"),
    "mlopt.generators.wasserstein_discriminator_loss": logits("real_logits", "fake_logits"),
    "mlopt.generators.wasserstein_generator_loss": logits("fake_logits"),
    "mlopt.generators.gradient_penalty": of(penalised, condition="anything"),
    "mlopt.generators.initialize": of(lambda: {"module": nn.Linear(1, 1), "init": "normal"}),
    "mlopt.generators.make_gan": of(
        lambda: {**sizes(), "name": "dcgan"},
        wrong={"options": ({"no_such_option": 1},), "image_size": (9,)},
    ),
    "mlopt.generators.sample_grid": of(
        lambda: {"generator": Small(), "classes": 3, "per_class": 1, "seed": 0},
        seed="-1, 0",
        wrong={"seed": (2**64,)},
    ),
    "mlopt.generators.save_grid": of(
        lambda: {"images": torch.zeros(2, 1, 2, 2), "path": folder() / "grid.png"},
        wrong={"path": (folder(), "grid.no_picture")},
    ),
    "mlopt.generators.spectral_normalize": of(lambda: {"module": nn.Linear(1, 1)}),
    "mlopt.generators.train_gan": of(
        trained,
        gradient_penalty="0",
        per_class="0",
        betas="0 inside",
        auxiliary="0 inside",
        lr="0",
        discriminator_lr="0",
        checkpoint="unknown",
        wrong={"batches": ([],), "checkpoint": (folder(),)},
    ),
}
