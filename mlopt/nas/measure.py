"""Measuring a network: test error, parameters, and the spread over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlopt._arguments import a_device, checked
from mlopt._errors import DataError, SettingsError
from mlopt.nas.labels import class_labels

__all__ = [
    "Spread",
    "Totals",
    "count_parameters",
    "device_of",
    "evaluate",
    "logits_of",
    "pair_of",
    "spread",
]


@checked(SettingsError)
def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters whose name lacks 'auxiliary', as papers report it."""
    return sum(p.numel() for name, p in network.named_parameters() if "auxiliary" not in name)


@checked(SettingsError, device=a_device)
@torch.no_grad()
def evaluate(
    network: nn.Module, loader: Iterable[Any], device: torch.device | str | None = None
) -> dict[str, float]:
    """Measure a network in evaluation mode; its mode is restored.

    Args:
        network: called as `logits, _ = network(images)`.
        loader: batches (images, labels); a label is a whole number, the class counted from 0.
        device: where to evaluate; by default where the network is.

    Returns:
        error (percent, of the first choice), error_top5 (percent of the images whose class is not
        among the five highest logits; 0 with five classes or fewer), loss (mean cross entropy),
        correct, correct_top5 and total (numbers of images).

    Raises:
        DataError: if the loader gives no batch, an empty one, one that is no pair of tensors, or
            labels that are not one class for each image, of those that the network has logits for.
        SettingsError: if the network does not return a pair, or an argument is of a wrong type.
    """
    where = device_of(network) if device is None else torch.device(device)
    network.to(where)
    training = network.training
    network.eval()
    totals = Totals("evaluate", where)
    try:
        for batch in loader:
            images, labels = pair_of(batch, "evaluate: the loader")
            logits, _ = logits_of(network(images.to(where)), "evaluate")
            labels = class_labels(labels, logits, "evaluate").to(where)
            totals.add(cross_entropy(logits, labels, reduction="sum"), logits, labels)
    finally:
        network.train(training)
    return totals.result()


def device_of(network: nn.Module) -> torch.device:
    """The device of a network's first parameter; the CPU without any."""
    return next((p.device for p in network.parameters()), torch.device("cpu"))


def pair_of(batch: Any, where: str) -> tuple[Any, Tensor]:
    """Images, or what else can be sent to a device, and labels of a batch.

    Args:
        batch: as the loader gave it.
        where: whose, for the error.

    Returns:
        Both.

    Raises:
        DataError: it is no such pair.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        images, labels = batch
        if hasattr(images, "to") and isinstance(labels, Tensor):
            return images, labels
    raise DataError(f"{where} gave a {type(batch).__name__}; give batches (images, labels).")


def logits_of(found: Any, where: str) -> tuple[Tensor, Tensor | None]:
    """What a network returned, logits and those of an auxiliary classifier.

    Args:
        found: that; a tensor of two rows would be taken apart without a word.
        where: who asks, for the error.

    Returns:
        Both.

    Raises:
        SettingsError: it is no such pair, or its logits are not (B, classes).
    """
    if isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], Tensor):
        if found[0].ndim != 2:
            raise SettingsError(
                f"{where}: the network returned logits of shape {tuple(found[0].shape)}; they must "
                "be (B, classes), a row for each image."
            )
        return found[0], found[1]
    raise SettingsError(
        f"{where}: the network returned a {type(found).__name__}; it must return a pair, logits "
        "and those of an auxiliary classifier or None."
    )


class Totals:
    """Sums over batches, kept on the device until they are asked for.

    Args:
        who: whose they are, for errors.
        device: where the batches are.
        loader: name of the argument that gives them, for errors.
    """

    def __init__(self, who: str, device: torch.device, loader: str = "loader") -> None:
        self.who, self.loader = who, loader
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        self.correct = torch.zeros(2, dtype=torch.int64, device=device)
        self.total = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: the sum of its losses, (B, classes) logits and (B,) labels."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == labels[:, None]
        self.loss = self.loss + loss
        self.correct = self.correct + torch.stack([best[:, 0].sum(), best.sum()])
        self.total += len(labels)

    def result(self) -> dict[str, float]:
        """What `evaluate` returns."""
        if not self.total:
            raise DataError(
                f"{self.who}: the {self.loader} gave no batch. With drop_last=True one batch must "
                "be full."
            )
        correct, correct_top5 = (int(count) for count in self.correct)
        return {
            "error": 100 * (1 - correct / self.total),
            "error_top5": 100 * (1 - correct_top5 / self.total),
            "loss": self.loss.item() / self.total,
            "correct": correct,
            "correct_top5": correct_top5,
            "total": self.total,
        }


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of one number over seeds.

    Attributes:
        mean: over the seeds.
        deviation: of the sample (divided by count - 1); None with one seed.
        count: number of seeds.
    """

    mean: float
    deviation: float | None
    count: int

    def __str__(self) -> str:
        """As papers print it: 2.76 ± 0.09."""
        more = "" if self.deviation is None else f" ± {self.deviation:.2f}"
        return f"{self.mean:.2f}{more}"


@checked(SettingsError)
def spread(values: Iterable[float]) -> Spread:
    """Mean and deviation of what several seeds gave.

    Args:
        values: one for each seed.

    Returns:
        Both; it prints as `2.76 ± 0.09`.

    Raises:
        SettingsError: if there are none, or one is no number.
    """
    numbers = list(values)
    if not all(isinstance(v, Real) and not isinstance(v, bool) for v in numbers):
        raise SettingsError(f"spread: values must be numbers, got {numbers!r:.80}.")
    if not numbers:
        raise SettingsError("spread: there are no values; give one for each seed.")
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Spread(statistics.fmean(numbers), deviation, len(numbers))
