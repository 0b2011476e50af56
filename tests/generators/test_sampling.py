"""Pictures of what a generator draws."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import nn

from mlopt._errors import SettingsError
from mlopt.generators import DCGANGenerator, sample_grid, save_grid


@pytest.fixture
def generator() -> DCGANGenerator:
    torch.manual_seed(0)
    return DCGANGenerator(8, 1, 3, z=5, width=4)


def test_one_class_after_the_other() -> None:
    class Constant(nn.Module):
        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            return (labels / 8)[:, None, None, None].expand(-1, 1, 2, 2)

    images = sample_grid(Constant(), classes=3, per_class=2, seed=0)
    assert images.shape == (6, 1, 2, 2)
    assert (images[:, 0, 0, 0] * 8).tolist() == [0, 0, 1, 1, 2, 2]


def test_the_seed_decides_and_nothing_else_moves(generator) -> None:
    generator.embedding.eval()  # a mode of a part, which must come back
    modes = [m.training for m in generator.modules()]
    before = {name: value.clone() for name, value in generator.state_dict().items()}
    state = torch.get_rng_state()
    first = sample_grid(generator, 3, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(sample_grid(generator, 3, 2, seed=1), first)
    assert not torch.equal(sample_grid(generator, 3, 2, seed=2), first)
    assert not first.requires_grad
    assert [m.training for m in generator.modules()] == modes
    for name, value in generator.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modes_come_back_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, labels: torch.Tensor) -> torch.Tensor:
            raise ValueError("broken")

    module = Broken()
    with pytest.raises(ValueError, match="broken"):
        sample_grid(module, 3, 1, seed=0)
    assert module.training


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_has_a_class_in_each_row(tmp_path, channels) -> None:
    levels = torch.tensor([-1.0, -1.0, 0.0, 0.0, 1.0, 1.0])
    images = levels[:, None, None, None].expand(-1, channels, 4, 4)
    save_grid(images, tmp_path / "grid.png", per_row=2, scale=3)
    picture = Image.open(tmp_path / "grid.png").convert("L")
    assert picture.size == ((2 * 5 + 1) * 3, (3 * 5 + 1) * 3)  # one pixel between images
    centres = [[picture.getpixel((3 * (5 * j + 3), 3 * (5 * i + 3))) for j in range(2)]
               for i in range(3)]  # fmt: skip
    assert centres[0] == [0, 0]
    assert set(centres[1]) <= {127, 128}  # between both
    assert centres[2] == [255, 255]


def test_what_is_refused(generator, tmp_path) -> None:
    with pytest.raises(SettingsError, match="sample_grid.per_class=0"):
        sample_grid(generator, 3, 0, seed=0)
    with pytest.raises(SettingsError, match=r"save_grid: images have shape \(0"):
        save_grid(torch.zeros(0, 1, 4, 4), tmp_path / "grid.png")
    with pytest.raises(SettingsError, match="save_grid.scale=0"):
        save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "grid.png", scale=0)
    with pytest.raises(SettingsError, match=r"save_grid: path=.*grid\.none' ends in no format"):
        save_grid(torch.zeros(1, 1, 4, 4), tmp_path / "grid.none")
    assert list(tmp_path.iterdir()) == []
