"""Plain training of a GAN, outside any graph: for tuning and for pretraining."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam
from tqdm import tqdm

from mlopt._arguments import checked, from_one, from_zero, one_of, within
from mlopt._errors import DataError, NonFiniteError, SettingsError
from mlopt._files import Lock, remove_parts
from mlopt.generators.ema import ExponentialAverage
from mlopt.generators.gradient_penalty import couples_samples
from mlopt.generators.gradient_penalty import gradient_penalty as slope_penalty
from mlopt.generators.losses import LOSSES
from mlopt.generators.training_checkpoint import Batches, Course

__all__ = ["train_gan"]

DECAYS = ("none", "linear")


@checked(
    SettingsError,
    steps=from_one,
    loss=one_of(LOSSES),
    lr=from_zero,
    discriminator_lr=from_zero,
    betas=within("[0, 1)"),
    decay=one_of(DECAYS),
    d_steps=from_one,
    gradient_penalty=from_zero,
    auxiliary=from_zero,
    per_class=from_zero,
    log_every=from_one,
)
def train_gan(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    steps: int,
    *,
    loss: str = "non-saturating",
    lr: float = 2e-4,
    discriminator_lr: float | None = None,
    betas: tuple[float, float] = (0.5, 0.999),
    decay: str = "none",
    d_steps: int = 1,
    gradient_penalty: float = 0.0,
    auxiliary: tuple[float, float] = (1.0, 0.1),
    per_class: int = 0,
    together: bool = False,
    average: ExponentialAverage | None = None,
    on_log: Callable[[int, dict[str, float]], None] | None = None,
    log_every: int = 50,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> dict[str, float]:
    """Alternate discriminator steps, each on a new batch, and one generator step, with Adam.

    Generated images have the labels of the real ones of the same batch, but see `per_class`. Both
    modules are trained in place, in the mode that they are in, on the device where the generator
    is; noise is drawn from torch's global generator.

    `make_gan` makes the networks of a family, and `GANS[name].training()` gives the arguments that
    it was published with: `train_gan(g, d, batches, 1000, **GANS["biggan"].training())`.

    Args:
        generator: called with labels (B,), gives images in the range that the discriminator reads.
        discriminator: called with images and labels, gives logits (B,).
        batches: real images and labels, gone through again and again.
        steps: steps of the generator.
        loss: a name of `LOSSES`.
        lr: step size of the generator's Adam.
        discriminator_lr: step size of the discriminator's Adam; by default `lr`.
        betas: of both.
        decay: `none`, or `linear`: both step sizes fall to 0 over the steps.
        d_steps: steps of the discriminator for each one of the generator.
        gradient_penalty: factor of the `gradient_penalty` in the discriminator's loss; 0 for none.
        auxiliary: weights of the cross-entropy of real images in the discriminator's loss and of
            generated ones in the generator's, if the discriminator has an auxiliary classifier.
        per_class: how many images of each class the generator's step draws, instead of as many as
            the batch has, with the batch's labels (0). The generator's attribute `classes` says of
            how many classes.
        together: whether the discriminator gets real and generated images as one batch, as
            `SharedDiscriminator` needs it, instead of in two calls.
        average: the generator's running average, updated after each of its steps.
        on_log: called with the number of steps done and the losses, every `log_every` steps and at
            the end.
        log_every: steps between two calls of `on_log`.
        progress: whether to show a progress bar.
        checkpoint: a file that is written after each call of `on_log`, or where it would be. If it
            is there at the start, the training goes on from it, to the bit, given the same networks
            and arguments, and batches that draw from torch's global generator alone, as those of
            `mlopt.data.loader` do; a finished one is only read.

    Returns:
        The last step's losses, `discriminator` and `generator`, and with a penalty `penalty`, which
        is part of the discriminator's.

    Raises:
        DataError: there are no batches, or one is no pair of tensors.
        SettingsError: a number is out of range, a name is unknown, a penalty is asked for with a
            discriminator that couples the samples of a batch, or the checkpoint is damaged, that of
            another training, or being written by one.
        NonFiniteError: a loss is not finite; the step of that network was not taken.
    """
    classes = getattr(generator, "classes", None)
    if per_class and not isinstance(classes, int):
        raise SettingsError(
            f"train_gan: per_class={per_class} needs a generator with an int attribute `classes`."
        )
    if gradient_penalty and (together or couples_samples(discriminator)):
        raise SettingsError(
            f"train_gan: gradient_penalty={gradient_penalty} must be 0, for only 0 goes with "
            "together=True or a discriminator with BatchNorm: the penalty is on each sample's "
            "slope, and BatchNorm couples the samples. Take a critic without it, or no penalty."
        )
    has_classifier = getattr(discriminator, "conditioning", None) == "auxiliary"
    players = _Players(
        generator,
        discriminator,
        *LOSSES[loss],
        gradient_penalty,
        auxiliary if has_classifier else None,
        together,
    )
    d_lr = lr if discriminator_lr is None else discriminator_lr
    optimizers = [
        Adam(network.parameters(), rate, betas)
        for network, rate in ((generator, lr), (discriminator, d_lr))
    ]
    device = next((p.device for p in generator.parameters()), torch.device("cpu"))
    stream = Batches(batches)
    parts = {"generator": generator, "discriminator": discriminator, "batches": stream}
    parts |= {f"optimizer {i}": optimizer for i, optimizer in enumerate(optimizers)}
    parts |= {"average": average} if average is not None else {}
    settings = {
        "steps": steps, "loss": loss, "lr": lr, "discriminator_lr": d_lr, "betas": betas,
        "decay": decay, "d_steps": d_steps, "gradient_penalty": gradient_penalty,
        "auxiliary": auxiliary, "per_class": per_class, "together": together,
        "average": None if average is None else (average.decay, average.start),
    }  # fmt: skip
    course = Course(None if checkpoint is None else Path(checkpoint), settings, device, parts)
    losses: dict[str, Tensor] = {}
    with _only_writer(course.path):
        begin, numbers = course.resume()
        for done in tqdm(
            range(begin, steps), desc="GAN", unit="step", disable=None if progress else True,
            initial=begin, total=steps,
        ):  # fmt: skip
            if decay == "linear":
                for optimizer, rate in zip(optimizers, (lr, d_lr), strict=True):
                    optimizer.param_groups[0]["lr"] = rate * (1 - done / steps)
            for _ in range(d_steps):
                real, labels = (tensor.to(device) for tensor in _pair(stream.draw()))
                losses.update(players.discriminator_losses(real, labels))
                _descend(discriminator, optimizers[1], losses, "discriminator", done)
            asked = torch.arange(classes or 0, device=device).repeat_interleave(per_class)
            losses["generator"] = players.generator_loss(
                real, labels, asked if per_class else labels
            )
            _descend(generator, optimizers[0], losses, "generator", done)
            if average is not None:
                average.update()
            if (done + 1) % log_every == 0 or done + 1 == steps:
                numbers = _numbers(losses)
                if on_log is not None:
                    on_log(done + 1, dict(numbers))
                course.save(done + 1, numbers)
    return numbers


def _only_writer(path: Path | None) -> contextlib.AbstractContextManager[Any]:
    """The right to write a file, whose killed writers' parts are removed."""
    if path is None:
        return contextlib.nullcontext()
    if not path.name or path.is_dir():
        raise SettingsError(f"train_gan: checkpoint={str(path)!r} names no file. Give one.")
    lock = Lock(path.with_name(f".{path.name}.lock"), path).acquire()
    remove_parts(path)
    return lock


@dataclass(frozen=True)
class _Players:
    """The two networks, and what each of them minimises."""

    g: nn.Module
    d: nn.Module
    d_loss: Callable[[Tensor, Tensor], Tensor]
    g_loss: Callable[[Tensor], Tensor]
    penalty: float
    auxiliary: tuple[float, float] | None
    together: bool

    def discriminator_losses(self, real: Tensor, labels: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            fake = self.g(labels)
        if self.together:
            real_logits, fake_logits = self.pair(real, labels, fake, labels)
            known = None
        else:
            real_logits, known = self.judge(real, labels)
            fake_logits = self.d(fake, labels)
        loss = self.d_loss(real_logits, fake_logits)
        if self.auxiliary is not None and known is not None:
            loss = loss + self.auxiliary[0] * cross_entropy(known, labels)
        if not self.penalty:
            return {"discriminator": loss}
        penalty = self.penalty * slope_penalty(self.d, real, fake, labels)
        return {"discriminator": loss + penalty, "penalty": penalty.detach()}

    def generator_loss(self, real: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        fake = self.g(asked)
        if self.together:
            return self.g_loss(self.pair(real, labels, fake, asked)[1])
        logits, known = self.judge(fake, asked)
        if self.auxiliary is None or known is None:
            return self.g_loss(logits)
        return self.g_loss(logits) + self.auxiliary[1] * cross_entropy(known, asked)

    def judge(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits, and those of the classes if there is a classifier."""
        if self.auxiliary is None:
            return self.d(x, labels), None
        judge: Any = self.d.judge
        return judge(x, labels)

    def pair(self, real: Tensor, y: Tensor, fake: Tensor, y_fake: Tensor) -> Sequence[Tensor]:
        logits = self.d(torch.cat([real, fake]), torch.cat([y, y_fake]))
        return logits.split([len(real), len(fake)])


def _descend(
    network: nn.Module, optimizer: Adam, losses: dict[str, Tensor], name: str, step: int
) -> None:
    """One step on a loss, by this network's parameters alone; the loss is then detached."""
    if not bool(losses[name].isfinite()):
        raise NonFiniteError(
            f"train_gan: the {name}'s loss is {losses[name].item()} in step {step}; that step was "
            "not taken. Lower the step sizes, or look at the images.",
            problem=name,
            step=step,
        )
    parameters = [p for p in network.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(losses[name], parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad()
    losses[name] = losses[name].detach()


def _numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value) for name, value in losses.items()}


def _pair(batch: Any) -> Sequence[Tensor]:
    if isinstance(batch, (tuple, list)) and len(batch) >= 2:
        pair = batch[:2]
        if all(isinstance(tensor, Tensor) for tensor in pair):
            return pair
    raise DataError(
        f"train_gan: one of the batches is a {type(batch).__name__}; give pairs of tensors, real "
        "images and labels."
    )
