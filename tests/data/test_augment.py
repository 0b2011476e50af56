"""Crops and flips of single images."""

from __future__ import annotations

import builtins

import pytest
import torch

from mlopt._errors import SettingsError
from mlopt.data import augmentation, standard_augmentation


def shifts(image: torch.Tensor, padding: int, flip: bool) -> set[bytes]:
    """All results that the augmentation may have."""
    size = image.shape[-1]
    padded = torch.nn.functional.pad(image, [padding] * 4)
    crops = [
        padded[:, i : i + size, j : j + size]
        for i in range(2 * padding + 1)
        for j in range(2 * padding + 1)
    ]
    if flip:
        crops += [crop.flip(-1) for crop in crops]
    return {crop.contiguous().numpy().tobytes() for crop in crops}


@pytest.mark.parametrize(
    ("name", "size", "channels", "padding", "flip"),
    [
        ("digits", 8, 1, 1, False),
        ("fashion-mnist", 28, 1, 2, True),
        ("cifar10", 32, 3, 4, True),
        ("cifar100", 32, 3, 4, True),
    ],
)
def test_every_allowed_shift_and_no_other(name, size, channels, padding, flip) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 256, (channels, size, size), dtype=torch.uint8, generator=generator)
    change = standard_augmentation(name, size)
    torch.manual_seed(0)
    seen = {change(image).numpy().tobytes() for _ in range(1500)}
    assert seen == shifts(image, padding, flip)


def test_the_seed_decides() -> None:
    image = torch.rand(3, 32, 32)
    change = standard_augmentation("cifar10", 32)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append([change(image) for _ in range(4)])
    first, again, other = map(torch.stack, results)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_what_is_refused(monkeypatch) -> None:
    with pytest.raises(SettingsError, match="'svhn', only for digits"):
        standard_augmentation("svhn", 32)
    with pytest.raises(SettingsError, match="padding=-1"):
        augmentation(8, -1, False)

    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(SettingsError, match=r'pip install "mlopt\[nas\]"'):
        augmentation(8, 1, False)
