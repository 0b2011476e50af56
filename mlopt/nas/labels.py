"""The labels of a batch: one class for each image, among those that a network tells apart."""

from __future__ import annotations

import torch
from torch import Tensor

from mlopt._errors import DataError

__all__ = ["class_labels"]


def class_labels(labels: Tensor, logits: Tensor, who: str) -> Tensor:
    """Labels as the loss takes them; what is none is refused.

    To torch -100 is a label to be ignored, which a mean over all images would count; and one
    without a logit would end the process on a GPU.

    Args:
        labels: as they come from the loader, of any whole type: to look at them needs no wait for
            a GPU.
        logits: (B, classes).
        who: asks, for errors.

    Returns:
        (B,), int64, where they are.

    Raises:
        DataError: they are not B whole numbers from 0 to classes - 1.
    """
    count, classes = logits.shape
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise DataError(
            f"{who}: a batch has labels of {labels.dtype}. Give the class of each image, a whole "
            "number: labels.long(), or labels.argmax(1) of probabilities."
        )
    if labels.shape != (count,):
        raise DataError(
            f"{who}: a batch has labels of shape {tuple(labels.shape)}, and the network gave "
            f"logits for {count} images. Give one class for each image, a tensor ({count},)."
        )
    if not count:
        raise DataError(f"{who}: a batch has no images. Leave empty batches out.")
    labels = labels.long()
    least, greatest = (int(bound) for bound in labels.aminmax())
    if least < 0:
        raise DataError(
            f"{who}: a batch has the label {least}, and labels count the classes from 0. Leave "
            "images out that have no label."
        )
    if greatest >= classes:
        raise DataError(
            f"{who}: a batch has the label {greatest}, but the network has {classes} classes. "
            f"Build the network with classes={greatest + 1} or more, the number of classes of the "
            "data."
        )
    return labels
