"""The options of the LFM-CW example: generator families, discriminator steps, averages, Eq. 3."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compare import exact, rounding
from examples.small_runs import TINY, search_epochs
from torch import Tensor
from torch.nn.functional import cross_entropy

import lfm_cw_darts
import mlopt
from mlopt.generators import (
    GANS,
    SharedDiscriminator,
)
from support import pipeline, settings
from support.data import load_data, search_loaders
from support.networks import Pixels
from support.search import run_search

SMALL = [*TINY, "--channels", "2", "--batch-size", "16"]
#: A loss sums 64 pixels, 10 classes and as many as 30 images, some of them twice.
LOSS = rounding(2 * (64 + 10 + 30), dtype=torch.float32)


class World:
    """A search of the example, its nodes by name, and a batch."""

    def __init__(self, tmp_path: Path, *more: str) -> None:
        self.folder = tmp_path / "run"
        self.s = settings.parse(None, [*SMALL, "--run-folder", str(self.folder), *more])
        self.data = load_data(self.s)
        self.loaders = search_loaders(self.data, self.s, plain=True)
        torch.manual_seed(0)
        self.search = lfm_cw_darts.scheme(self.data, *self.loaders, self.s)
        self.engine = self.search.engine
        self.nodes: dict[str, Any] = {node.name: node for node in self.engine.graph.nodes}
        self.batch = next(iter(self.loaders[0]))
        self.w1, self.w2, self.g, self.h = self.search.networks


def linear(classes: int = 10) -> tuple[Any, Any]:
    """A classifier that is no network, called as w(x, a()), and its architecture."""
    weight = torch.randn(64, classes, generator=torch.Generator().manual_seed(1))
    return (lambda x, a: x.flatten(1) @ weight), (lambda: None)


def stage2(world: World, fake: Tensor, weights: Tensor) -> Tensor:
    w2, a = linear()
    return world.nodes["stage2"].fn(w2, a, weights, fake, world.batch)


def test_equation_3_with_one_image_for_each_of_the_batch(tmp_path: Path) -> None:
    world, (w2, _) = World(tmp_path, "--lambda", "0.3"), linear()
    x, y, _ = world.batch
    fake, weights = torch.randn_like(x), torch.rand(10)
    own = cross_entropy(w2(fake, None), y, reduction="none")
    by_hand = cross_entropy(w2(x, None), y) + 0.3 * torch.stack(
        [weights[c] * loss for c, loss in zip(y, own, strict=True)]
    ).sum() / len(y)
    exact(stage2(world, fake, weights), by_hand, LOSS)


def test_equation_3_as_printed_with_m_images_of_each_class(tmp_path: Path) -> None:
    world, (w2, _) = World(tmp_path, "--images-per-class", "3", "--lambda", "0.3"), linear()
    x, y, _ = world.batch
    fake, weights = torch.randn(30, *x.shape[1:]), torch.rand(10)
    by_hand = cross_entropy(w2(x, None), y)
    for c in range(10):
        for m in range(3):  # the m-th image of class c
            image = fake[[c + 10 * m]]
            by_hand = by_hand + 0.3 * weights[c] * cross_entropy(w2(image, None), torch.tensor([c]))
    exact(stage2(world, fake, weights), by_hand, LOSS)
    drawn = []

    def g(labels: Tensor) -> Tensor:
        drawn.append(labels)
        return torch.zeros(len(labels), 1, 8, 8)

    world.nodes["synthetic"].fn(g, world.batch)
    assert drawn[0].tolist() == [*range(10)] * 3


def test_equation_19_leaves_the_real_images_out(tmp_path: Path) -> None:
    both = World(tmp_path, "--lambda", "0.3")
    alone = World(tmp_path, "--lambda", "0.3", "--synthetic-only")
    alone.batch = both.batch
    w2, _ = linear()
    x, y, _ = both.batch
    fake, weights = torch.randn_like(x), torch.rand(10)
    difference = stage2(both, fake, weights) - stage2(alone, fake, weights)
    exact(difference, cross_entropy(w2(x, None), y), 2 * LOSS)  # of two losses


@pytest.mark.parametrize(
    "more",
    [
        ("--images-per-class", "1", "--synthetic-only"),
        ("--ema", "0.9", "--order", "second", "--product", "one-sided"),
        ("--d-steps", "3", "--order", "second", "--product", "one-sided", "--generator", "biggan"),
        ("--generator", "biggan", "--discriminator", "own", "--d-steps", "0"),
        ("--generator", "wgan-gp", "--d-steps", "2"),
        ("--generator", "wgan-gp", "--order", "second", "--product", "one-sided"),
        ("--generator", "wgan-gp-conv", "--generator-size", "28"),
    ],
)
def test_options_take_a_step(tmp_path: Path, more: tuple[str, ...]) -> None:
    world = World(tmp_path, *more)
    before = [p.detach().clone() for p in world.g.parameters()]
    metrics = world.engine.step()
    assert all(torch.isfinite(v).all() for v in metrics.values())
    assert any(not torch.equal(p, q) for p, q in zip(before, world.g.parameters(), strict=True))
    assert world.engine.epoch == 0


@pytest.mark.parametrize("generator_epochs", ["1", pytest.param("0", marks=pytest.mark.slow)])
def test_discriminator_steps_do_not_shorten_an_epoch(tmp_path: Path, generator_epochs: str) -> None:
    """The further steps draw batches of their own: an epoch stays that of the training half."""
    world = World(tmp_path, "--d-steps", "3", "--generator-epochs", generator_epochs)
    with mlopt.report.RunFolder.create(world.folder, {}) as folder:
        run_search(world.search, world.loaders, folder, world.data, world.s)
        rows = search_epochs(folder)
    assert len(world.loaders[0]) == 2
    assert [row["step"] for row in rows] == [2 * k for k in range(1, len(rows) + 1)]
    assert len(rows) == 1 + int(generator_epochs)


def test_each_discriminator_step_is_an_update_of_its_own(tmp_path: Path) -> None:
    one, three = World(tmp_path), World(tmp_path, "--d-steps", "3")
    for world, count in ((one, 1), (three, 3)):
        world.engine.step()
        optimizer = world.nodes["discriminator"].optimizer
        assert {int(state["step"]) for state in optimizer.state.values()} == {count}
    assert three.engine.plan().evaluations - one.engine.plan().evaluations == 2


def test_the_family_chooses_its_own_number_of_steps_loss_and_betas(tmp_path: Path) -> None:
    world = World(tmp_path, "--generator", "wgan-gp", "--d-steps", "0")
    discriminator = world.nodes["discriminator"]
    assert discriminator.repeat == GANS["wgan-gp"].d_steps == 5
    assert discriminator.optimizer.defaults["betas"] == (0.0, 0.9)
    given = World(tmp_path, "--generator", "biggan", "--gan-beta1", "0.5")
    assert given.nodes["generator"].optimizer.defaults["betas"] == (0.5, 0.999)


def test_the_penalty_is_in_the_critic_s_loss(tmp_path: Path) -> None:
    """A linear critic has the slope |w| everywhere, so the penalty is 10 (|w| - 1)^2."""
    world = World(tmp_path, "--generator", "wgan-gp")
    weight = torch.randn(64, generator=torch.Generator().manual_seed(2))

    def critic(x: Tensor, y: Tensor) -> Tensor:
        return x.flatten(1) @ weight

    _, y, real = world.batch
    image = world.data.normalization.from_generator(torch.zeros(len(y), 1, 8, 8))
    value = world.nodes["discriminator"].fn(
        critic, lambda y: torch.zeros(len(y), 1, 8, 8), world.batch
    )
    expected = critic(image, y).mean() - critic(real, y).mean() + 10 * (weight.norm() - 1) ** 2
    exact(value, expected, LOSS)


def test_w2_learns_from_the_average(tmp_path: Path) -> None:
    world = World(tmp_path, "--ema", "0.5")
    assert world.search.generator is not world.g
    before = [p.detach().clone() for p in world.g.parameters()]
    assert not world.nodes["synthetic"].reads
    (follow,) = world.search.callbacks
    world.engine.run(steps=1, callbacks=[follow], progress=False)
    average = follow.average
    for old, new, mean in zip(
        before, world.g.parameters(), average.module.parameters(), strict=True
    ):
        exact(mean, (old + new) / 2, rounding(20, dtype=torch.float32))
    torch.manual_seed(3)
    images = world.nodes["synthetic"].fn(world.batch)
    torch.manual_seed(3)
    drawn = average.module(world.batch[1])
    assert torch.equal(images, world.data.normalization.from_generator(drawn))


def test_the_discriminator_is_shared_unless_there_is_a_penalty(tmp_path: Path) -> None:
    for more, shared in (
        ((), True),
        (("--generator", "biggan"), True),
        (("--generator", "biggan", "--discriminator", "own"), False),
        (("--generator", "wgan-gp"), False),
    ):
        assert isinstance(World(tmp_path, *more).h, SharedDiscriminator) is shared


def test_a_penalty_with_the_search_network_is_refused(tmp_path: Path) -> None:
    s = settings.parse(
        None,
        [*SMALL, "--generator", "wgan-gp", "--discriminator", "shared"]
        + ["--run-folder", str(tmp_path / "run")],
    )
    with pytest.raises(mlopt.SettingsError, match=r"BatchNorm.*--discriminator own"):
        pipeline.run("lfm_cw_darts", lfm_cw_darts.scheme, s)
    assert not (tmp_path / "run").exists()


def test_images_of_another_size_are_fitted() -> None:
    """The GAN plays at the generator's size, the classifiers read the data's."""
    data: Any = SimpleNamespace(
        image_size=8, normalization=SimpleNamespace(from_generator=lambda x: 2 * x)
    )
    same, half = Pixels(data, 0), Pixels(data, 4)
    x = torch.randn(3, 1, 8, 8)
    assert same.real(x) is x
    assert torch.equal(same.synthetic(x), 2 * x)
    bound = rounding(20, dtype=torch.float32)  # means of four pixels
    exact(half.real(x), torch.nn.functional.avg_pool2d(x, 2), bound)
    flat = half.synthetic(torch.ones(3, 1, 4, 4))
    exact(flat, torch.full((3, 1, 8, 8), 2.0), bound)
