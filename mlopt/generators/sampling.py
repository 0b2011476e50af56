"""Pictures of what a generator draws."""

from __future__ import annotations

import io
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from mlopt._arguments import a_seed, checked, from_one
from mlopt._errors import SettingsError
from mlopt._files import write_file

__all__ = ["sample_grid", "save_grid"]


@checked(SettingsError, classes=from_one, per_class=from_one, seed=a_seed)
def sample_grid(generator: nn.Module, classes: int, per_class: int, seed: int) -> Tensor:
    """Images of every class, class by class, without gradient.

    The generator is put in evaluation mode meanwhile, so that its buffers stay as they are; modes
    and torch's global random state are restored. The same seed gives the same images.

    Args:
        generator: called with labels, gives images (B, C, S, S).
        classes: number of classes.
        per_class: images of each class.
        seed: of the noise.

    Returns:
        Images, (classes * per_class, C, S, S), those of class 0 first.

    Raises:
        SettingsError: `classes` or `per_class` is smaller than 1.
    """
    device = next((p.device for p in generator.parameters()), torch.device("cpu"))
    labels = torch.arange(classes, device=device).repeat_interleave(per_class)
    modes = [(module, module.training) for module in generator.modules()]
    others = [device] if device.type != "cpu" else []
    kind = device.type if others else "cuda"
    with torch.random.fork_rng(devices=others, device_type=kind), torch.no_grad():
        torch.manual_seed(seed)
        generator.eval()
        try:
            return generator(labels)
        finally:
            for module, training in modes:
                module.training = training


@checked(SettingsError, per_row=from_one, scale=from_one)
def save_grid(
    images: Tensor, path: str | os.PathLike[str], per_row: int = 10, scale: int = 1
) -> None:
    """Write images to one picture file, row by row.

    Args:
        images: values in [-1, 1], (N, C, S, S), C being 1 or 3.
        path: the file; its suffix names the format, such as `.png`.
        per_row: images in a row; `per_class` of `sample_grid` makes one row per class.
        scale: side, in pixels of the file, of one pixel of the images.

    Raises:
        SettingsError: `per_row` or `scale` is smaller than 1, there is no image, the suffix names
            no format, the file cannot be written, or torchvision is missing.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise SettingsError(
            f"save_grid: images have shape {tuple(images.shape)}; give some, (N, C, S, S), C being "
            "1 or 3."
        )
    try:
        from PIL import Image
        from torchvision.utils import make_grid, save_image
    except ImportError as error:
        raise SettingsError(
            "save_grid: torchvision is missing; install it with: pip install torchvision."
        ) from error
    path = Path(path)
    formats = Image.registered_extensions()
    if path.suffix.lower() not in formats:
        raise SettingsError(
            f"save_grid: path={str(path)!r} ends in no format of a picture; give a name with .png."
        )
    grid = make_grid(images.detach(), nrow=per_row, padding=1, normalize=True, value_range=(-1, 1))
    picture, kind = io.BytesIO(), formats[path.suffix.lower()]
    save_image(interpolate(grid[None], scale_factor=scale), picture, format=kind)
    with picture.getbuffer() as content:
        write_file(path, content)
