"""The search of the NAS examples: run the engine, and follow each learner into the run folder."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from settings import Settings
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.data import ImageData
from mlopt.generators import sample_grid, save_grid
from mlopt.nas import Architecture, agreement, derive, total_variation
from mlopt.report import RunFolder


@dataclass(frozen=True)
class Learner:
    """One of those who learn in a search, with its name in files and metrics ("" if alone)."""

    name: str
    architecture: Architecture
    classifier: nn.Module

    def key(self, metric: str) -> str:
        """The name of one of its metrics."""
        return f"{self.name}/{metric}" if self.name else metric


@dataclass
class Search:
    """A search ready to run.

    Attributes:
        engine: of the scheme.
        architecture: what it learns; a list of them if there are several learners.
        classifier: the network whose validation error is followed; a list of them likewise.
        networks: those whose forward passes are counted.
        epochs: of the whole run, pretraining included.
        generator: whose samples are saved, if there is one.
        passes: forward passes of the networks, counted by the run.
        validation: the metrics of the last validation.
    """

    engine: mlopt.Engine
    architecture: Architecture | Sequence[Architecture]
    classifier: nn.Module | Sequence[nn.Module]
    networks: Iterable[nn.Module]
    epochs: int
    generator: nn.Module | None = None
    passes: int = field(default=0, init=False)
    validation: dict[str, float] = field(default_factory=dict, init=False)

    @property
    def learners(self) -> list[Learner]:
        """Everyone who learns, by name."""
        if isinstance(self.architecture, Architecture):
            assert isinstance(self.classifier, nn.Module)
            return [Learner("", self.architecture, self.classifier)]
        assert not isinstance(self.classifier, nn.Module)
        pairs = zip(self.architecture, self.classifier, strict=True)
        return [Learner(f"learner_{k}", a, w) for k, (a, w) in enumerate(pairs, start=1)]

    @property
    def best(self) -> int:
        """The place of the learner with the lowest loss at the last validation."""
        losses = [self.validation[x.key("validation/loss")] for x in self.learners]
        known = [math.inf if math.isnan(loss) else loss for loss in losses]
        return known.index(min(known))


def run_search(
    search: Search, valid: Any, folder: RunFolder, data: ImageData, s: Settings
) -> float:
    """Run the engine; the seconds it took."""

    def count(module: nn.Module, args: Any) -> None:
        search.passes += 1

    def validate() -> dict[str, float]:
        search.validation = validation(search.learners, valid, s.device)
        return search.validation

    for network in (*(x.architecture for x in search.learners), *search.networks):
        network.to(s.device)
    hooks = [network.register_forward_pre_hook(count) for network in search.networks]
    began = time.perf_counter()
    try:
        search.engine.run(
            epochs=search.epochs,
            validate=validate,
            callbacks=[_Log(search, folder, data)],
            log_every=10,
        )
    finally:
        for hook in hooks:
            hook.remove()
    return time.perf_counter() - began


def validation(learners: Sequence[Learner], valid: Any, device: str) -> dict[str, float]:
    """What is measured of each learner; of several, how much they found the same, too."""
    metrics = {x.key(k): v for x in learners for k, v in measured(x, valid, device).items()}
    pairs = [pair_agreement(a, b) for a, b in itertools.combinations(learners, 2)]
    for name in pairs[0] if pairs else ():
        metrics[f"agreement/{name}"] = statistics.mean(pair[name] for pair in pairs)
    return metrics


def measured(learner: Learner, valid: Any, device: str) -> dict[str, float]:
    """A learner's validation error and loss, and the entropy of its mixtures."""
    with torch.no_grad():
        weights = learner.architecture()
    error, loss = classify(
        lambda x: learner.classifier(x, weights), learner.classifier, valid, device
    )
    entropy = {f"entropy/{kind}": value for kind, value in learner.architecture.entropy().items()}
    return {"validation/error": error, "validation/loss": loss, **entropy}


def pair_agreement(a: Learner, b: Learner) -> dict[str, float]:
    """How much two learners found the same: edges, operations, and the distance of the mixtures."""
    shared = agreement(derive(a.architecture), derive(b.architecture))
    return {**shared, "total_variation": total_variation(a.architecture, b.architecture)}


@torch.no_grad()
def classify(
    logits: Callable[[Tensor], Tensor], network: nn.Module, batches: Any, device: str
) -> tuple[float, float]:
    """Error (percent) and mean loss over a loader, in evaluation mode, on randomness of its own."""
    wrong, loss, total = 0, 0.0, 0
    training = network.training
    network.eval()
    with torch.random.fork_rng(devices=[]):
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            out = logits(x)
            wrong += int((out.argmax(1) != y).sum())
            loss += float(cross_entropy(out, y, reduction="sum"))
            total += len(y)
    network.train(training)
    return 100 * wrong / total, loss / total


class _Log(mlopt.Callback):
    """Writes a search into its run folder."""

    def __init__(self, search: Search, folder: RunFolder, data: ImageData) -> None:
        self.search, self.folder, self.data = search, folder, data
        self.began = time.perf_counter()

    def on_log(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        row = {k: v for k, v in metrics.items() if not k.startswith("signal/")}
        if "signal/class_losses" in metrics:
            row["class_losses"] = metrics["signal/class_losses"]
        seconds = time.perf_counter() - self.began
        self.folder.log("search", step=engine.steps, epoch=engine.epoch, seconds=seconds, **row)

    def on_epoch(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        last = engine.epoch == self.search.epochs
        if self.search.generator is not None and (
            last or engine.epoch % max(1, self.search.epochs // 6) == 0
        ):
            images = sample_grid(self.search.generator, self.data.classes, 10, seed=0)
            path = self.folder.path(f"samples/epoch_{engine.epoch:04d}.png")
            save_grid(images, path, per_row=10, scale=max(1, 32 // self.data.image_size))

    def on_validation(self, engine: mlopt.Engine, metrics: dict[str, Any]) -> None:
        self.folder.log("search-epoch", step=engine.steps, epoch=engine.epoch, **metrics)
