"""Random changes of training images, by data set."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mlopt._errors import SettingsError

__all__ = ["augmentation", "standard_augmentation"]


def augmentation(image_size: int, padding: int, flip: bool) -> Callable[[Tensor], Tensor]:
    """Random crop of the image padded with black, then a horizontal flip of half of the images.

    Args:
        image_size: side of the images, in pixels.
        padding: pixels added on each side before the crop: the largest shift.
        flip: whether to flip.

    Returns:
        A function from one image of pixels, (C, S, S), to another; it draws from torch's global
        generator.

    Raises:
        SettingsError: `image_size` is not positive or `padding` is negative, or torchvision is
            missing.
    """
    if image_size < 1 or padding < 0:
        raise SettingsError(
            f"augmentation: image_size={image_size} must be at least 1 and padding={padding} at "
            "least 0."
        )
    try:
        from torchvision.transforms import v2
    except ImportError as error:
        raise SettingsError(
            'augmentation: torchvision is missing; install it with: pip install "mlopt[nas]".'
        ) from error
    crop = v2.RandomCrop(image_size, padding=padding)
    return v2.Compose([crop, v2.RandomHorizontalFlip()]) if flip else crop


def standard_augmentation(name: str, image_size: int) -> Callable[[Tensor], Tensor]:
    """The usual augmentation of a data set of `load`.

    CIFAR: shift by at most 4 pixels and flip, as DARTS; Fashion-MNIST: 2 pixels and flip; digits: 1
    pixel, no flip, since a mirrored digit is no digit.

    Args:
        name: a name that `load` takes.
        image_size: side of the images, in pixels.

    Returns:
        As `augmentation`.

    Raises:
        SettingsError: no augmentation is known for this name, or torchvision is missing.
    """
    if name not in _STANDARD:
        names = ", ".join(_STANDARD)
        raise SettingsError(
            f"standard_augmentation: none is known for {name!r}, only for {names}; make one with "
            "`augmentation(image_size, padding, flip)`."
        )
    padding, flip = _STANDARD[name]
    return augmentation(image_size, padding, flip)


_STANDARD = {
    "digits": (1, False),
    "fashion-mnist": (2, True),
    "cifar10": (4, True),
    "cifar100": (4, True),
}
