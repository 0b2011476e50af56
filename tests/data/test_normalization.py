"""Conversions between pixels, [-1, 1] and normalized images."""

from __future__ import annotations

import pytest
import torch
from compare import exact, rounding

from mlopt._errors import DataError, SettingsError
from mlopt.data import Normalization

# A sum, two quotients and a difference on one way, a product and a sum with two constants on the
# other; what is subtracted is up to twice what is left.
AFFINE = rounding(10, condition=2)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)


@pytest.fixture(params=[1, 3], ids=["grey", "colour"])
def normalization(request) -> Normalization:
    return Normalization(MEAN[: request.param], STD[: request.param])


def column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None, None]


def images(n: Normalization, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.rand(5, len(n.mean), 4, 4, generator=generator, dtype=dtype) - 1


def test_the_formula(normalization) -> None:
    g = images(normalization)
    expected = ((g + 1) / 2 - column(normalization.mean)) / column(normalization.std)
    exact(normalization.from_generator(g), expected, AFFINE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(normalization, dtype) -> None:
    g = images(normalization, dtype)
    bound = rounding(20, condition=2, dtype=dtype)
    there = normalization.from_generator(g)
    assert there.dtype == dtype
    exact(normalization.to_generator(there), g, bound)
    x = images(normalization, dtype) * 2
    back = normalization.from_generator(normalization.to_generator(x))
    exact(back, x, bound)


@pytest.mark.parametrize("most", [16, 255])
def test_pixels_and_the_generators_range_agree(normalization, most) -> None:
    n = Normalization(normalization.mean, normalization.std, most)
    generator = torch.Generator().manual_seed(0)
    shape = (5, len(n.mean), 4, 4)
    pixels = torch.randint(0, most + 1, shape, dtype=torch.uint8, generator=generator)
    x = n.from_pixels(pixels)
    assert x.dtype == torch.float32
    expected = (pixels.double() / most - column(n.mean)) / column(n.std)
    bound = rounding(10, condition=2, dtype=torch.float32)
    exact(x, expected, bound)
    exact(x, n.from_generator(2 * pixels.float() / most - 1), bound)


def test_differentiable(normalization) -> None:
    g = images(normalization).requires_grad_()
    assert torch.autograd.gradcheck(normalization.from_generator, g)
    assert torch.autograd.gradcheck(normalization.to_generator, g)
    normalization.from_generator(g).sum().backward()
    expected = (0.5 / column(normalization.std)).expand_as(g)
    exact(g.grad, expected, AFFINE)


def test_under_vmap_as_without(normalization) -> None:
    g = images(normalization)
    mapped = torch.func.vmap(normalization.from_generator)(g)
    exact(mapped, normalization.from_generator(g), AFFINE)


def test_what_is_refused() -> None:
    with pytest.raises(SettingsError, match="one number for each channel"):
        Normalization((0.5,), (0.2, 0.2))
    with pytest.raises(SettingsError, match="must be a.* positive and finite"):
        Normalization((0.5,), (0.0,))
    with pytest.raises(DataError, match=r"\(2, 1, 4, 4\).*3, H, W"):
        Normalization(MEAN, STD).from_generator(torch.zeros(2, 1, 4, 4))
