"""Training a derived network from scratch, and measuring its error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from mlopt._errors import DataError, NonFiniteError, SettingsError
from mlopt.nas.evaluation import EvaluationNetwork

__all__ = ["count_parameters", "evaluate", "retrain"]


def count_parameters(network: nn.Module) -> int:
    """Return the number of parameters whose name lacks 'auxiliary', as papers report it."""
    return sum(p.numel() for name, p in network.named_parameters() if "auxiliary" not in name)


def retrain(
    network: EvaluationNetwork,
    train_loader: DataLoader[Any],
    *,
    epochs: int,
    lr: float = 0.025,
    momentum: float = 0.9,
    weight_decay: float = 3e-4,
    clip: float = 5.0,
    auxiliary_weight: float = 0.4,
    drop_path: float = 0.0,
    label_smoothing: float = 0.0,
    min_lr: float = 0.0,
    device: torch.device | str | None = None,
    seed: int = 0,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a network with SGD and a cosine schedule.

        loss = CE(logits, y) + auxiliary_weight * CE(auxiliary logits, y)
        lr(e) = min_lr + (lr - min_lr) * (1 + cos(pi * e / epochs)) / 2,    drop path(e) =
        drop_path * e / epochs

    Randomness (drop path, the loader's shuffling if it has no generator of its own) comes from
    `seed`; the global generators are restored at the end.

    Args:
        network: trained in place; its `drop_path` is set at every epoch.
        train_loader: batches (images, labels).
        epochs: passes over the data.
        lr: learning rate of the first epoch.
        momentum: of SGD.
        weight_decay: of SGD.
        clip: largest norm of a step's gradient.
        auxiliary_weight: weight of the auxiliary loss, if the network has one.
        drop_path: the rate that drop path approaches.
        label_smoothing: probability mass spread over all classes in the training target.
        min_lr: the learning rate that the schedule approaches.
        device: where to train; by default where the network is.
        seed: of all randomness.
        on_epoch: called after each epoch with its metrics.
        progress: whether to show a progress bar.

    Returns:
        One dict for each epoch: epoch, lr, drop_path, loss (of the main classifier), error
        (percent, on training batches).

    Raises:
        NonFiniteError: if the loss is not finite; the step was not taken.
        SettingsError: if `epochs` is less than one or `drop_path` is not in [0, 1).
        DataError: if the loader gives no batch.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section
        3.2.
    """
    if epochs < 1:
        raise SettingsError(f"retrain: epochs must be at least 1, got {epochs}.")
    if not 0 <= drop_path < 1:
        raise SettingsError(f"retrain: drop_path must be in [0, 1), got {drop_path}.")
    where = _device_of(network) if device is None else torch.device(device)
    network.to(where)
    optimizer = torch.optim.SGD(
        network.parameters(), lr, momentum=momentum, weight_decay=weight_decay
    )
    history: list[dict[str, float]] = []
    step = 0
    with (
        torch.random.fork_rng(devices=[where] if where.type == "cuda" else []),
        tqdm(
            desc="retrain", unit="step", total=epochs * len(train_loader), disable=not progress
        ) as bar,
    ):
        torch.manual_seed(seed)
        for epoch in range(epochs):
            rate = min_lr + (lr - min_lr) * (1 + math.cos(math.pi * epoch / epochs)) / 2
            for group in optimizer.param_groups:
                group["lr"] = rate
            network.train()
            network.drop_path = drop_path * epoch / epochs
            totals = _Totals(where)
            for images, labels in train_loader:
                images, labels = images.to(where), labels.to(where)
                logits, auxiliary = network(images)
                main = cross_entropy(logits, labels, label_smoothing=label_smoothing)
                loss = main
                if auxiliary is not None:
                    aux_loss = cross_entropy(auxiliary, labels, label_smoothing=label_smoothing)
                    loss = main + auxiliary_weight * aux_loss
                if not math.isfinite(loss.item()):
                    raise NonFiniteError(
                        f"retrain: the loss is {loss.item()} in step {step} (epoch {epoch}, lr "
                        f"{rate:.4g}); the step was not taken. Lower lr, or check the images for "
                        "values that are not finite.",
                        problem="retrain",
                        step=step,
                    )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), clip)
                optimizer.step()
                totals.add(main.detach() * len(labels), logits, labels)
                step += 1
                bar.update()
            measured = totals.result("retrain")
            metrics = {
                "epoch": epoch,
                "lr": rate,
                "drop_path": network.drop_path,
                "loss": measured["loss"],
                "error": measured["error"],
            }
            history.append(metrics)
            bar.set_postfix(
                epoch=epoch + 1, loss=f"{metrics['loss']:.4f}", error=f"{metrics['error']:.2f}%"
            )
            if on_epoch is not None:
                on_epoch(metrics)
    return history


@torch.no_grad()
def evaluate(
    network: EvaluationNetwork, loader: Iterable[Any], device: torch.device | str | None = None
) -> dict[str, float]:
    """Measure a network in evaluation mode; its mode is restored.

    Args:
        network: the network.
        loader: batches (images, labels).
        device: where to evaluate; by default where the network is.

    Returns:
        error (percent), loss (mean cross entropy), correct and total (numbers of images).

    Raises:
        DataError: if the loader gives no batch.
    """
    where = _device_of(network) if device is None else torch.device(device)
    network.to(where)
    training = network.training
    network.eval()
    totals = _Totals(where)
    try:
        for images, labels in loader:
            images, labels = images.to(where), labels.to(where)
            logits, _ = network(images)
            totals.add(cross_entropy(logits, labels, reduction="sum"), logits, labels)
    finally:
        network.train(training)
    return totals.result("evaluate")


def _device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device


class _Totals:
    """Sums over batches, kept on the device until they are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), dtype=torch.float32, device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.total = 0

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.loss = self.loss + loss
        self.correct = self.correct + (logits.argmax(dim=1) == labels).sum()
        self.total += len(labels)

    def result(self, who: str) -> dict[str, float]:
        if not self.total:
            raise DataError(
                f"{who}: the loader gave no batch. With drop_last=True one batch must be full."
            )
        correct = int(self.correct)
        return {
            "error": 100 * (1 - correct / self.total),
            "loss": self.loss.item() / self.total,
            "correct": correct,
            "total": self.total,
        }
