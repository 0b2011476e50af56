"""Mean losses of the classes, as weights of generated examples."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mlopt._arguments import checked, from_one, within
from mlopt._errors import DataError, SettingsError

__all__ = ["ClassLosses", "mean_per_class", "sums_per_class"]


@checked(DataError, classes=from_one)
def mean_per_class(losses: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Average losses over the examples of each class.

        means[c] = mean of losses[b] over the b with labels[b] = c;    0 where there is none

    Args:
        losses: (B,), floating point.
        labels: (B,), integers from 0 to classes - 1.
        classes: number of classes, C.

    Returns:
        means (C,), differentiable in `losses`, and present (C,), whether the class occurs.

    Raises:
        DataError: if shapes or types are wrong, the batch is empty, or a label is out of range. The
            range of labels is checked on the CPU only, where it costs no synchronisation.
    """
    sums, counts = _sums(losses, labels, classes, "mean_per_class")
    return _means(sums, counts)


@checked(DataError, classes=from_one)
def sums_per_class(losses: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Add up losses over the examples of each class: what parts of a batch can be combined by.

        sums[c] = sum of losses[b] over the b with labels[b] = c,    counts[c] = how many they are

    Args:
        losses: (B,), floating point.
        labels: (B,), integers from 0 to classes - 1.
        classes: number of classes, C.

    Returns:
        sums (C,), differentiable in `losses`, and counts (C,), integers.

    Raises:
        DataError: as `mean_per_class`.
    """
    return _sums(losses, labels, classes, "sums_per_class")


def _sums(losses: Tensor, labels: Tensor, classes: int, name: str) -> tuple[Tensor, Tensor]:
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    kinds = losses.is_floating_point() and whole
    if losses.dim() != 1 or losses.shape != labels.shape or not len(losses) or not kinds:
        raise DataError(
            f"{name}: losses and labels must be vectors of one length of at least 1, of "
            f"numbers and of class indices, got shapes {tuple(losses.shape)} and "
            f"{tuple(labels.shape)}, {losses.dtype} and {labels.dtype}. Compute the losses with "
            "reduction='none'."
        )
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        lowest, highest = (int(bound) for bound in labels.aminmax())
        if lowest < 0 or highest >= classes:
            raise DataError(
                f"{name}: labels must be 0 to {classes - 1} (classes={classes}), "
                f"got labels from {lowest} to {highest}."
            )
    member = labels[:, None] == torch.arange(classes, device=labels.device)
    counts = member.sum(dim=0)
    sums = torch.where(member, losses[:, None], torch.zeros_like(losses[:, None])).sum(dim=0)
    return sums, counts


def _means(sums: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    return sums / counts.clamp(min=1).to(sums.dtype), counts > 0


class ClassLosses(nn.Module):
    """Mean loss of each class: (B,) losses and (B,) labels -> (C,).

        out[c] = mean of the batch's losses of class c           if the batch has the class,
                 running mean of class c                         else, if it was ever seen,
                 mean over all classes seen so far               else

    Only the first of the three carries a gradient. In training mode the running means follow the
    batches, running[c] <- (1 - momentum) * running[c] + momentum * batch[c], starting from the
    first batch's value.

    Args:
        classes: number of classes, C.
        momentum: weight of a new batch in the running means.
        normalize: 'none' returns the losses, 'mean' divides them by their mean (losses must not be
            negative), 'softmax' returns C * softmax(losses); the mean over classes is then one.

    Raises:
        SettingsError: if an argument is not one of the above.
    """

    @checked(SettingsError, classes=from_one, momentum=within("(0, 1]"))
    def __init__(
        self,
        classes: int,
        momentum: float = 0.1,
        normalize: Literal["none", "mean", "softmax"] = "none",
    ) -> None:
        super().__init__()
        self.classes = classes
        self.momentum = momentum
        self.normalize = normalize
        self.running: Tensor
        self.seen: Tensor
        self.register_buffer("running", torch.zeros(classes))
        self.register_buffer("seen", torch.zeros(classes, dtype=torch.bool))

    def forward(self, losses: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of each class, (C,); see the class.

        Raises:
            DataError: as `mean_per_class`.
        """
        means, present = mean_per_class(losses, labels, self.classes)
        return self._weigh(means, present)

    @checked(DataError)
    def of_sums(self, sums: Tensor, counts: Tensor) -> Tensor:
        """The same from sums over the classes, which may have been added up over parts of a batch.

        Args:
            sums: (C,), as `sums_per_class` gives them.
            counts: (C,), likewise.

        Returns:
            The mean loss of each class, (C,).

        Raises:
            DataError: they are not vectors of the classes.
        """
        if sums.shape != counts.shape or sums.shape != (self.classes,):
            raise DataError(
                f"ClassLosses: sums and counts must have the shape ({self.classes},), got "
                f"{tuple(sums.shape)} and {tuple(counts.shape)}. Give what sums_per_class returns."
            )
        return self._weigh(*_means(sums, counts))

    def _weigh(self, means: Tensor, present: Tensor) -> Tensor:
        filled = torch.where(present, means, self._expected(means.detach(), present))
        if self.training:
            self._follow(means.detach(), present)
        if self.normalize == "mean":
            return filled / filled.mean().clamp(min=torch.finfo(filled.dtype).tiny)
        if self.normalize == "softmax":
            return self.classes * filled.softmax(dim=0)
        return filled

    def _expected(self, means: Tensor, present: Tensor) -> Tensor:
        """What stands in for a class that the batch lacks."""
        running = self.running.to(means.dtype)
        known = torch.where(present, means, running)  # zero where a class was never seen
        count = (present | self.seen).sum()
        return torch.where(self.seen, running, known.sum() / count)

    def _follow(self, means: Tensor, present: Tensor) -> None:
        means = means.to(self.running.dtype)
        followed = torch.where(self.seen, self.running.lerp(means, self.momentum), means)
        self.running.copy_(torch.where(present, followed, self.running))
        self.seen.copy_(self.seen | present)
