"""Right calls of `mlopt.nas`, on networks as small as they come."""

from __future__ import annotations

from typing import Any

import torch
from arguments.example import Example, folder, of
from torch import Tensor, nn

from mlopt import nas

__all__ = ["EXAMPLES"]

GENOTYPE = nas.GENOTYPES["DARTS_V2"]
ONE_NODE = nas.Genotype(
    (("skip_connect", 0), ("skip_connect", 1)),
    (2,),
    (("skip_connect", 0), ("skip_connect", 1)),
    (2,),
)
SPACES = {
    "DARTS": nas.DARTS,
    "PCDARTS": nas.PCDARTS,
    "PDARTS": nas.PDARTS,
    "DARTSMinus": nas.DARTSMinus,
}


def space(name: str, **options: Any) -> nas.SearchSpace:
    return SPACES[name](channels=4, layers=1, nodes=1, **options)


def last(name: str) -> nas.SearchSpace:
    """The space in its last stage."""
    return (
        space(name, add_layers=(0,), add_width=(0,), drop=(7,), skip_dropout=(0.0,))
        if name == "PDARTS"
        else space(name)
    )


def images() -> Tensor:
    return torch.zeros(2, 3, 8, 8)


def supernet() -> nas.Supernet:
    return nas.Supernet(channels=2, layers=1, classes=2, nodes=1)


def seen() -> dict[str, Any]:
    return {"x": images(), "weights": nas.Architecture(1)()}


class Pair(nn.Module):
    """Logits of two classes, and no others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.linear(x), None


def batches() -> list[tuple[Tensor, Tensor]]:
    return [(torch.zeros(2, 4), torch.tensor([0, 1]))]


def sgd() -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.ones(2))], 0.1)


def losses() -> dict[str, Any]:
    return {"losses": torch.zeros(3), "labels": torch.tensor([0, 1, 1])}


LABELS = {"labels": (torch.tensor([0, 1, 5]), torch.tensor([0, 1, -1]))}
BATCHES = ([], [3], [(torch.zeros(2, 4),)], [(torch.zeros(2, 4), [0, 1])])
NETWORKS = (nn.Linear(4, 2),)  # two rows of logits, which are no pair

OF_SPACES = {
    name: example
    for kind in SPACES
    for name, example in {
        f"mlopt.nas.{kind}": of(
            lambda: {"channels": 4},
            most_skips="0",
            stage="0",
            **dict.fromkeys(("add_layers", "add_width"), "0 inside"),
            skip_dropout="0 inside",
            wrong={"kept": ((1, 2), (("none",), ("none",)))},
        ),
        f"mlopt.nas.{kind}.architecture": of(on=lambda kind=kind: space(kind)),
        f"mlopt.nas.{kind}.derive": of(
            lambda kind=kind: {"architecture": last(kind).architecture()},
            on=lambda kind=kind: last(kind),
            wrong={"architecture": (nas.Architecture(2),)},
        ),
        f"mlopt.nas.{kind}.following": of(
            lambda kind=kind: {"architecture": space(kind).architecture()},
            on=lambda kind=kind: space(kind),
        ),
        f"mlopt.nas.{kind}.supernet": of(lambda: {"classes": 2}, on=lambda kind=kind: space(kind)),
    }.items()
}


def scheduled(kind: str) -> Example:
    return of(
        lambda: {"epoch": 0, "epochs": 2},
        on=lambda: space(kind),
        epoch="0",
        warmup="0",
        wrong={"epoch": (2,)},
    )


def network() -> Example:
    return of(
        lambda: {"genotype": GENOTYPE, "channels": 2, "layers": 1, "classes": 2},
        drop_path="0",
        wrong={"drop_path": (1.0,)},
    )


EXAMPLES: dict[str, Example] = {
    **OF_SPACES,
    "mlopt.nas.PDARTS.skip_rate": scheduled("PDARTS"),
    "mlopt.nas.DARTSMinus.beta": scheduled("DARTSMinus"),
    "mlopt.nas.Architecture": of(operations="empty inside, unknown inside"),
    "mlopt.nas.Architecture.entropy": of(on=nas.Architecture),
    "mlopt.nas.Architecture.extra_repr": of(on=nas.Architecture),
    "mlopt.nas.Architecture.forward": of(on=nas.Architecture),
    "mlopt.nas.ClassLosses": of(lambda: {"classes": 2}, wrong={"momentum": (1.5,)}),
    "mlopt.nas.ClassLosses.forward": of(
        losses, on=lambda: nas.ClassLosses(2), labels="whole", wrong=LABELS
    ),
    "mlopt.nas.CollapseMonitor": of(**dict.fromkeys(("skips", "none", "entropy", "gap"), "0, inf")),
    "mlopt.nas.CollapseMonitor.alarms": of(lambda: {"measures": {}}, on=nas.CollapseMonitor),
    "mlopt.nas.CollapseMonitor.measures": of(
        lambda: {"architecture": nas.Architecture(1)},
        on=nas.CollapseMonitor,
        **dict.fromkeys(("validation_loss", "training_loss"), "-1, 0, nan, inf"),
    ),
    "mlopt.nas.EvaluationNetwork": network(),
    "mlopt.nas.EvaluationNetwork.forward": of(
        lambda: {"x": images()},
        on=lambda: nas.EvaluationNetwork(GENOTYPE, 2, 1, 2, auxiliary=False),
    ),
    "mlopt.nas.ImageNetNetwork": network(),
    "mlopt.nas.ImageNetNetwork.forward": of(
        lambda: {"x": torch.zeros(2, 3, 32, 32)},
        on=lambda: nas.ImageNetNetwork(GENOTYPE, 2, 1, 2, auxiliary=False),
    ),
    "mlopt.nas.Genotype": of(
        lambda: {
            "normal": GENOTYPE.normal,
            "normal_concat": GENOTYPE.normal_concat,
            "reduce": GENOTYPE.reduce,
            "reduce_concat": GENOTYPE.reduce_concat,
        }
    ),
    "mlopt.nas.Genotype.check": of(
        operations="empty inside, unknown inside",
        on=lambda: GENOTYPE,
        wrong={"nodes": (3,), "operations": (["none"],)},
    ),
    "mlopt.nas.Genotype.from_json": of(
        lambda: {"text": GENOTYPE.to_json()}, on=lambda: nas.Genotype, wrong={"text": ("{}",)}
    ),
    "mlopt.nas.Genotype.from_text": of(
        lambda: {"text": repr(GENOTYPE)}, on=lambda: nas.Genotype, wrong={"text": ("{}",)}
    ),
    "mlopt.nas.Genotype.text": of(on=lambda: GENOTYPE),
    "mlopt.nas.Genotype.to_json": of(on=lambda: GENOTYPE),
    "mlopt.nas.Supernet": of(lambda: {"channels": 2, "layers": 1, "classes": 2, "nodes": 1}),
    "mlopt.nas.Supernet.begin_epoch": of(
        lambda: {"epoch": 0, "epochs": 2},
        on=supernet,
        epoch="0",
        warmup="0",
        wrong={"epoch": (2,)},
    ),
    "mlopt.nas.Supernet.features": of(seen, on=supernet),
    "mlopt.nas.Supernet.forward": of(seen, on=supernet),
    "mlopt.nas.agreement": of(
        lambda: {"first": GENOTYPE, "second": GENOTYPE},
        wrong={"second": (nas.GENOTYPES["NASNet"],)},
    ),
    "mlopt.nas.count_parameters": of(lambda: {"network": Pair()}),
    "mlopt.nas.derive": of(lambda: {"architecture": nas.Architecture(1)}),
    "mlopt.nas.draw": of(
        lambda: {"genotype": ONE_NODE, "path": folder() / "cells.png"},
        title="empty, unknown",
        wrong={"path": ("cells.txt",)},
    ),
    "mlopt.nas.evaluate": of(
        lambda: {"network": Pair(), "loader": batches()},
        wrong={"network": NETWORKS, "loader": BATCHES},
    ),
    "mlopt.nas.largest_none": of(lambda: {"architecture": nas.Architecture(1)}),
    "mlopt.nas.load_genotype": of(
        lambda: {"name_or_file": "DARTS_V2"}, wrong={"name_or_file": (folder(),)}
    ),
    "mlopt.nas.lr_schedule": of(
        lambda: {"optimizer": sgd(), "schedule": "cosine", "epochs": 2},
        warmup="0",
        min_lr="0",
        wrong={"warmup": (2,), "min_lr": (0.2,)},
    ),
    "mlopt.nas.mean_per_class": of(
        lambda: {**losses(), "classes": 2}, labels="whole", wrong=LABELS
    ),
    "mlopt.nas.sums_per_class": of(
        lambda: {**losses(), "classes": 2}, labels="whole", wrong=LABELS
    ),
    "mlopt.nas.ClassLosses.of_sums": of(
        lambda: {"sums": torch.ones(2), "counts": torch.ones(2)},
        on=lambda: nas.ClassLosses(2),
        wrong={"sums": (torch.ones(3),), "counts": (torch.ones(3),)},
    ),
    "mlopt.nas.multiply_adds": of(
        lambda: {"network": nn.Conv2d(3, 1, 1), "image_shape": (3, 8, 8)},
        wrong={"image_shape": ((3, 8),)},
    ),
    "mlopt.nas.retrain": of(
        lambda: {"network": Pair(), "train_loader": batches(), "epochs": 1, "progress": False},
        checkpoint="unknown",
        auxiliary_weight="0",
        clip="inf",
        drop_path="0",
        label_smoothing="0",
        min_lr="0",
        momentum="0",
        seed="-1, 0",
        warmup="0",
        weight_decay="0",
        wrong={
            "network": NETWORKS,
            "train_loader": BATCHES,
            "seed": (2**64,),
            "checkpoint": (folder(),),
        },
    ),
    "mlopt.nas.skip_share": of(lambda: {"genotype": GENOTYPE}),
    "mlopt.nas.spread": of(lambda: {"values": [1.0]}, wrong={"values": ([], ["x"], [None])}),
    "mlopt.nas.total_variation": of(
        lambda: {"first": nas.Architecture(1), "second": nas.Architecture(1)},
        wrong={"second": (nas.Architecture(2),)},
    ),
}
