"""What the convolutional pairs have in common: sizes, initialisation, and the checks of input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mlopt._errors import DataError, SettingsError

#: image size -> (side of the smallest feature map, how often it doubles up to the image)
STAGES = {8: (4, 1), 16: (4, 2), 28: (7, 2), 32: (4, 3), 64: (4, 4), 128: (4, 5)}
#: The same for discriminators. 8x8 has one convolution more than the generator: with a single one
#: it sees little beyond the mean image, and samples of a class become equal.
DOWN_STAGES = {**STAGES, 8: (2, 2)}


def stage(image_size: int, table: dict[int, tuple[int, int]], where: str) -> tuple[int, int]:
    """Side of the smallest feature map and number of stages, or `SettingsError` with the sizes."""
    if image_size not in table:
        sizes = ", ".join(str(size) for size in table)
        raise SettingsError(
            f"{where}: image_size={image_size} is not supported; resize images to one of {sizes}."
        )
    return table[image_size]


def check_map(x: Any, channels: int, where: str) -> None:
    """Raise `DataError` unless x is a tensor of feature maps, (B, channels, H, W)."""
    if not isinstance(x, Tensor) or x.ndim != 4 or x.shape[1] != channels:
        raise DataError(f"{where}: x is {_form(x)}; give a tensor (B, {channels}, H, W).")


def check_logits(where: str, **logits: Any) -> None:
    """Raise `DataError` unless these are tensors of floating-point numbers, and not empty."""
    for name, value in logits.items():
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.numel():
            raise DataError(f"{where}: {name} is {_form(value)}; give logits, (B,).")


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    return f"of shape {tuple(value.shape)} and type {value.dtype}"


def check_labels(labels: Any, classes: int, where: str) -> None:
    """Raise `DataError` unless labels are integers of shape (B,) and, on the CPU, in range."""
    if not isinstance(labels, Tensor):
        raise DataError(
            f"{where}: labels are a {type(labels).__name__}; give a tensor (B,), int64."
        )
    if labels.ndim != 1 or labels.dtype not in (torch.int64, torch.int32):
        raise DataError(
            f"{where}: labels have shape {tuple(labels.shape)} and type {labels.dtype}; "
            "give class indices of shape (B,), int64 or int32."
        )
    # On an accelerator, looking at the values would wait for it; in a compiled graph, break it.
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise DataError(
                f"{where}: labels range over {low}..{high}, but there are {classes} classes: "
                f"give indices in 0..{classes - 1}."
            )


def check_images(x: Any, labels: Tensor, channels: int, image_size: int, where: str) -> None:
    """Raise `DataError` unless there is one image of the right shape for each label."""
    expected = (labels.shape[0], channels, image_size, image_size)
    if not isinstance(x, Tensor) or x.shape != expected or not x.is_floating_point():
        form = f"have shape {tuple(x.shape)}" if isinstance(x, Tensor) else _form(x)
        raise DataError(
            f"{where}: images {form}; for {labels.shape[0]} labels give {expected}, floating "
            "point, as x."
        )


def noise_for(labels: Tensor, z: Any, size: int, like: Tensor, where: str) -> Tensor:
    """Noise (B, size): what was given, if its shape is right; else drawn in the type of `like`."""
    if z is None:
        return torch.randn(labels.shape[0], size, device=like.device, dtype=like.dtype)
    right = (labels.shape[0], size)
    if not isinstance(z, Tensor) or z.shape != right or not z.is_floating_point():
        form = f"has shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"is {_form(z)}"
        raise DataError(
            f"{where}: noise {form}; for {labels.shape[0]} labels give {right}, floating "
            "point, as z."
        )
    return z


def init_dcgan(module: nn.Module) -> None:
    """DCGAN's initialisation: convolutions N(0, .02), BatchNorm gain N(1, .02), biases 0."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(part.weight, 0.0, 0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, 1.0, 0.02)
            nn.init.zeros_(part.bias)
