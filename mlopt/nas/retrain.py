"""Training a derived network from scratch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from tqdm import tqdm

from mlopt._arguments import (
    a_device,
    a_seed,
    checked,
    from_one,
    from_zero,
    in_body,
    one_of,
    positive,
    within,
)
from mlopt._errors import NonFiniteError, SettingsError
from mlopt.nas.cell_network import CellNetwork
from mlopt.nas.checkpoint import (
    ADVICE,
    file_of,
    generator_states,
    only_writer,
    read_checkpoint,
    restore_generators,
    write_checkpoint,
)
from mlopt.nas.fingerprint import (
    answers,
    data_fingerprint,
    network_fingerprint,
    same_answers,
    unwrapped,
)
from mlopt.nas.labels import class_labels
from mlopt.nas.measure import Totals, device_of, logits_of, pair_of
from mlopt.nas.schedules import SCHEDULES, lr_schedule

__all__ = ["retrain"]


@checked(
    SettingsError,
    train_loader=in_body,
    epochs=from_one,
    lr=positive,
    momentum=from_zero,
    weight_decay=from_zero,
    clip=within("(0, inf]"),
    auxiliary_weight=from_zero,
    drop_path=within("[0, 1)"),
    label_smoothing=within("[0, 1)"),
    min_lr=from_zero,
    schedule=one_of(SCHEDULES),
    warmup=from_zero,
    device=a_device,
    seed=a_seed,
)
def retrain(
    network: nn.Module,
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
    schedule: str = "cosine",
    warmup: int = 0,
    device: torch.device | str | None = None,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a network with SGD.

        loss = CE(logits, y) + auxiliary_weight * CE(auxiliary logits, y)
        lr(e) as in `lr_schedule`,    drop path(e) = drop_path * e / epochs

    Randomness (drop path, the loader's shuffling if it has no generator of its own) comes from
    `seed`; the global generators are restored at the end.

    Args:
        network: called as `logits, auxiliary = network(images)`, with None for no auxiliary logits,
            and trained in place; the `drop_path` of an evaluation network, which may stand inside a
            wrapper, is set at every epoch.
        train_loader: batches (images, labels); a label is a whole number, the class from 0.
        epochs: passes over the data.
        lr: learning rate of the first epoch; with warm-up, of the epoch that ends it.
        momentum: of SGD.
        weight_decay: of SGD.
        clip: largest norm of a step's gradient.
        auxiliary_weight: weight of the auxiliary loss, if the network has one.
        drop_path: the rate that drop path approaches.
        label_smoothing: probability mass spread over all classes in the training target.
        min_lr: the learning rate that the schedule approaches.
        schedule: `cosine`, `linear` or `exponential`.
        warmup: first epochs in which the learning rate rises.
        device: where to train; by default where the network is.
        seed: of all randomness.
        checkpoint: a file that is written after every epoch; if it is there at the start, the
            training goes on after its last epoch, with the same numbers as if it had not been
            interrupted (on the same device, and if what workers of the loader draw comes from its
            generators, as with `mlopt.data.loader`). The checkpoint of a finished training gives
            its network and metrics at once. Beside this call's arguments the file knows its
            network and data (`data_fingerprint`): if one of these is another, it is refused and
            nothing has changed. It ends with a checksum of its bytes; of a damaged one the file of
            the epoch before is taken, which lies beside it, with a warning. One training at a time
            writes it. A link stays: the file is what it leads to.
        on_epoch: called after each epoch with its metrics, before the checkpoint is written.
        progress: whether to show a progress bar.

    Returns:
        One dict for each epoch: epoch, lr, drop_path, loss (of the main classifier), error
        (percent, on training batches).

    Raises:
        NonFiniteError: if the loss is not finite; the step was not taken.
        SettingsError: if `epochs` is less than one, `drop_path` is not in [0, 1), the schedule is
            unknown, no parameter of the network is trained, or the checkpoint is that of another
            training, is damaged, is being written by another one, or cannot be read or written.
        DataError: if the loader gives no batch, an empty one, or labels that are not one class for
            each image, of those that the network has logits for.

    Reference: Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section
        3.2.
    """
    if isinstance(train_loader, (str, type)) or not (
        hasattr(train_loader, "__iter__") and hasattr(train_loader, "__len__")
    ):
        raise SettingsError(
            f"retrain: train_loader is a {type(train_loader).__name__}; give a loader of a known "
            "length, or a list of batches."
        )
    if not any(p.requires_grad for p in network.parameters()):
        raise SettingsError(
            "retrain: the network has no parameter to train; all are frozen, if it has any. Set "
            "requires_grad of those that shall be trained."
        )
    recipe = _Recipe(
        epochs, lr, momentum, weight_decay, clip, auxiliary_weight, drop_path, label_smoothing,
        min_lr, schedule, warmup, seed,
    )  # fmt: skip
    where = device_of(network) if device is None else torch.device(device)
    path = None if checkpoint is None else file_of(checkpoint)
    with contextlib.ExitStack() as stack:
        devices = [where] if where.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=devices))
        torch.manual_seed(seed)
        training = _Training(network.to(where), train_loader, recipe, where)
        if path is not None:
            training.resume(path)
            if len(training.history) < epochs:  # a finished one is only read
                stack.enter_context(only_writer(path))
                training.resume(path)  # whoever had the file till now may have gone on
        steps, done = len(train_loader), len(training.history)
        with tqdm(
            desc="retraining",
            unit="step",
            total=epochs * steps,
            initial=done * steps,
            disable=None if progress else True,  # none where the output is no terminal
        ) as bar:
            for epoch in range(done, epochs):
                metrics = training.epoch(epoch, bar)
                if on_epoch is not None:
                    on_epoch(metrics)
                if path is not None:
                    training.save(path)
    return training.history


@dataclass(frozen=True)
class _Recipe:
    """What a training depends on, besides the network and the data; see `retrain`."""

    epochs: int
    lr: float
    momentum: float
    weight_decay: float
    clip: float
    auxiliary_weight: float
    drop_path: float
    label_smoothing: float
    min_lr: float
    schedule: str
    warmup: int
    seed: int


class _Training:
    """A network with its optimizer and schedule, an epoch at a time."""

    def __init__(
        self, network: nn.Module, loader: DataLoader[Any], recipe: _Recipe, device: torch.device
    ) -> None:
        self.network, self.loader, self.recipe, self.device = network, loader, recipe, device
        self.optimizer = torch.optim.SGD(
            network.parameters(),
            recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.scheduler = lr_schedule(
            self.optimizer,
            recipe.schedule,
            recipe.epochs,
            warmup=recipe.warmup,
            min_lr=recipe.min_lr,
        )
        self.history: list[dict[str, float]] = []
        self._of: dict[str, Any] = {}
        self._images: Any = None

    def epoch(self, epoch: int, bar: Any) -> dict[str, float]:
        """Train on all batches once; the metrics."""
        at = f"retraining, epoch {epoch + 1} of {self.recipe.epochs}"
        bar.set_description_str(at, refresh=False)
        lr = self.optimizer.param_groups[0]["lr"]
        drop_path = self.recipe.drop_path * epoch / self.recipe.epochs
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, CellNetwork):
                module.drop_path = drop_path
        totals = Totals("retrain", self.device, "train_loader")
        for number, batch in enumerate(self.loader):
            images, labels = pair_of(batch, "retrain: the train_loader")
            if number == 0 and self._of:
                self._images = images[:2].clone() if isinstance(images, Tensor) else None
            logits, auxiliary = logits_of(self.network(images.to(self.device)), "retrain")
            labels = class_labels(labels, logits, "retrain").to(self.device)
            loss, main = self._losses(logits, auxiliary, labels)
            self._step(loss, epoch, epoch * len(self.loader) + number)
            totals.add(main.detach() * len(labels), logits.detach(), labels)
            bar.update()
        measured = totals.result()
        self.scheduler.step()
        metrics = {"epoch": epoch, "lr": lr, "drop_path": drop_path} | {
            name: measured[name] for name in ("loss", "error")
        }
        self.history.append(metrics)
        bar.set_postfix(loss=f"{metrics['loss']:.4f}", error=f"{metrics['error']:.2f}%")
        return metrics

    def _losses(
        self, logits: Tensor, auxiliary: Tensor | None, labels: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What is minimized, and the main classifier's part of it."""
        smoothing = self.recipe.label_smoothing
        main = cross_entropy(logits, labels, label_smoothing=smoothing)
        if auxiliary is None:
            return main, main
        second = cross_entropy(auxiliary, labels, label_smoothing=smoothing)
        return main + self.recipe.auxiliary_weight * second, main

    def _step(self, loss: Tensor, epoch: int, step: int) -> None:
        if not math.isfinite(loss.item()):
            raise NonFiniteError(
                f"retrain: the loss is {loss.item()} in step {step} (epoch {epoch}, lr "
                f"{self.optimizer.param_groups[0]['lr']:.4g}); the step was not taken. Lower lr, "
                "or check the images for values that are not finite.",
                problem="retrain",
                step=step,
            )
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()

    def save(self, path: Path) -> None:
        """Write everything that the next epoch depends on."""
        write_checkpoint(
            path,
            {
                "settings": self._of,
                "network": unwrapped(self.network).state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "history": self.history,
                "generators": generator_states(self.loader, self.device),
                "images": self._images,
                "answers": answers(self.network, self._images),
            },
        )

    def resume(self, path: Path) -> None:
        """Go back to where `save` was called, if it was."""
        self._of = self._of or {
            **asdict(self.recipe),
            **network_fingerprint(self.network),
            **data_fingerprint(self.loader),
        }
        content = read_checkpoint(path, self._of)
        if content is None:
            return
        # Layers and shapes say nothing of how they are wired: that shows in what comes out.
        self._images = content["images"]
        if not same_answers(
            answers(self.network, self._images, content["network"]), content["answers"]
        ):
            raise SettingsError(
                f"{path}: is the checkpoint of another network: with the same weights this one "
                f"gives other logits. {ADVICE}"
            )
        unwrapped(self.network).load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.history = content["history"]
        restore_generators(content["generators"], self.loader, self.device)
