"""Crops, flips and holes: each image of a batch has its own, and all are equally frequent."""

from __future__ import annotations

import builtins
import math

import pytest
import torch

from mlopt._errors import SettingsError
from mlopt.data import Cutout, WholeBatch, augmentation, standard_augmentation


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
    with pytest.raises(SettingsError, match="'svhn'.*only for digits.*imagenet"):
        standard_augmentation("svhn", 32)
    with pytest.raises(SettingsError, match="padding=-1"):
        augmentation(8, -1, False)
    with pytest.raises(SettingsError, match="8 pixels with the padding hold no crop of 9"):
        augmentation(9, 1, False)(torch.zeros(3, 6, 6))
    with pytest.raises(SettingsError, match="length must be a whole number, at least 2"):
        Cutout(1)

    real = builtins.__import__

    def fake(name, *args, **kwargs):
        if name.startswith("torchvision"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fake)
    with pytest.raises(SettingsError, match="pip install torchvision"):
        standard_augmentation("imagenet", 8)


def spread(counts: torch.Tensor) -> float:
    """How many deviations of its own chi-squared lies from what equal frequencies give."""
    expected = counts.sum().item() / counts.numel()
    assert expected > 20
    chi_squared = ((counts - expected) ** 2 / expected).sum().item()
    freedom = counts.numel() - 1
    return (chi_squared - freedom) / math.sqrt(2 * freedom)


def histogram(*values: torch.Tensor) -> torch.Tensor:
    """How often each combination of non-negative numbers occurs."""
    sizes = [int(v.max()) + 1 for v in values]
    flat = torch.zeros_like(values[0])
    for v, size in zip(values, sizes, strict=True):
        flat = flat * size + v
    return flat.bincount(minlength=math.prod(sizes)).double()


def test_offsets_and_flips_are_uniform_and_independent_for_each_image() -> None:
    """Two pixels tell where a crop begins and whether it is turned round."""
    padding, size, batch = 2, 6, 4000
    image = torch.arange(1, size * size + 1).view(1, size, size)
    change = augmentation(size, padding, flip=True)
    assert isinstance(change, WholeBatch)
    torch.manual_seed(0)
    crops = torch.cat([change(image.expand(batch, 3, size, size)) for _ in range(4)])
    assert crops.shape == (4 * batch, 3, size, size)
    assert crops.dtype == image.dtype
    assert torch.equal(crops[:, 0], crops[:, 2])  # channels stay together
    crops = crops[:, 0]
    inside = crops > 0
    row, column = 2, 2  # in every crop: shifts are at most 2
    here, right = crops[:, row, column], crops[:, row, column + 1]
    assert inside[:, row, column].all()
    flip = (right < here).long()
    top = (here - 1) // size - row + padding
    left = (here - 1) % size + padding - torch.where(flip > 0, size - 1 - column, column)
    shape = [int(v.max()) + 1 for v in (top, left, flip)]
    assert shape == [5, 5, 2]
    assert min(top.min(), left.min()) == 0
    assert abs(spread(histogram(top, left, flip))) < 4
    for one in (top, left, flip):
        for other in (top, left, flip):  # of the next image in the batch
            assert abs(spread(histogram(one[:-1], other[1:]))) < 4


def test_the_crop_of_a_batch_is_that_of_its_images() -> None:
    """Rows, columns and flips go with their own image and all its channels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(1, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator)
    torch.manual_seed(1)
    for image, crop in zip(images, augmentation(8, 1, True)(images), strict=True):
        assert crop.contiguous().numpy().tobytes() in shifts(image, 1, True)


def test_holes_are_uniform_and_independent_for_each_image() -> None:
    size, length = 5, 2
    torch.manual_seed(0)
    images = torch.ones(12000, 2, size, size)
    holed = Cutout(length)(images)
    assert images.min() == 1  # copies
    assert torch.equal(holed[:, 0], holed[:, 1])
    hole = holed[:, 0] == 0
    # rows y - 1 and y, of which row -1 is outside: the last one is y
    y = (hole.any(2) * torch.arange(size)).amax(1)
    x = (hole.any(1) * torch.arange(size)).amax(1)
    expected = torch.zeros_like(hole)
    for k in range(1, 200):
        expected[k, max(0, y[k] - 1) : y[k] + 1, max(0, x[k] - 1) : x[k] + 1] = True
    assert torch.equal(hole[1:200], expected[1:200])
    assert abs(spread(histogram(y, x))) < 4
    assert abs(spread(histogram(y[:-1], y[1:]))) < 4
    assert abs(spread(histogram(x[:-1], y[1:]))) < 4


def test_cutout_of_one_image_and_of_odd_length() -> None:
    torch.manual_seed(0)
    sides = {int((Cutout(5)(torch.ones(1, 20, 20))[0, k] == 0).sum()) for k in range(20)}
    assert max(sides) == 4  # length // 2 on either side, the centre's own row counted once
    assert Cutout(5)(torch.ones(3, 20, 30)).shape == (3, 20, 30)
