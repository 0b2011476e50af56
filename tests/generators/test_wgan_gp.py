"""The WGAN-GP pairs: sizes, formulas, conditioning, and the penalty inside a graph of problems."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles import assert_close, materialise
from torch import Tensor, nn

import mlopt
from mlopt._errors import DataError, SettingsError
from mlopt.generators import (
    WGANConvCritic,
    WGANConvGenerator,
    WGANResidualCritic,
    WGANResidualGenerator,
    gradient_penalty,
    make_gan,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)

PAIRS = [(WGANConvGenerator, WGANConvCritic), (WGANResidualGenerator, WGANResidualCritic)]
GENERATORS, CRITICS = zip(*PAIRS, strict=True)
LABELS = torch.tensor([0, 1, 2, 2, 1])


def small(make: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    options = {"image_size": 8, "channels": 1, "classes": 3, "width": 4, **settings}
    return make(**options).double()


def images(count: int = 5, channels: int = 1, size: int = 8) -> Tensor:
    return torch.randn(
        count, channels, size, size, generator=torch.Generator().manual_seed(1)
    ).double()


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [8, 16, 28, 32, 64, 128])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(pair, size, channels) -> None:
    g, h = (make(size, channels, 3, width=1) for make in pair)
    drawn = g(LABELS)
    assert drawn.shape == (5, channels, size, size)
    assert h(drawn, LABELS).shape == (5,)


def test_published_parameter_counts() -> None:
    """At 32 pixels: the convolutional pair without classes, the residual one with AC-GAN's head."""
    assert count(WGANConvGenerator(32, 3, classes=1)) == 5_179_907
    critic = WGANConvCritic(32, 3, classes=10, conditioning="auxiliary")
    assert count(critic) - count(critic.head.classifier) == 4_114_689
    assert count(WGANResidualGenerator(32, 3, 10)) == 1_218_307
    assert count(WGANResidualCritic(32, 3, 10, conditioning="auxiliary")) == 1_055_115
    # a projection instead of the classifier: one vector of 128 for each class
    assert count(WGANResidualCritic(32, 3, 10)) == 1_055_115 - 1_290 + 1_280


def conditional_norm(x: Tensor, part: Any, labels: Tensor) -> Tensor:
    """BatchNorm in training mode, and a gain and an offset, sample by sample."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    x = (x - mean) / (variance + 1e-5).sqrt()
    rows = [
        x[i] * (1 + part.gain.weight[y])[:, None, None] + part.offset.weight[y][:, None, None]
        for i, y in enumerate(labels.tolist())
    ]
    return torch.stack(rows)


def randomise(module: nn.Module) -> None:
    """Nothing is zero, so that nothing can be missing unseen."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))


def conv(x: Tensor, part: Any, **options: Any) -> Tensor:
    return F.conv2d(x, part.weight, part.bias, **options)


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def half(x: Tensor) -> Tensor:
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def test_residual_generator_is_its_formula() -> None:
    g = small(WGANResidualGenerator, image_size=16, channels=2, z=5)
    randomise(g)
    z = torch.randn(5, 5, dtype=torch.float64)
    x = (z @ g.linear.weight.T + g.linear.bias).view(5, 4, 4, 4)
    for up in g.ups:
        h = conv(twice(conditional_norm(x, up.norm1, LABELS).relu()), up.conv1, padding=1)
        h = conv(conditional_norm(h, up.norm2, LABELS).relu(), up.conv2, padding=1)
        x = h + conv(twice(x), up.shortcut)
    assert len(g.ups) == 2
    x = F.batch_norm(x, None, None, g.norm.weight, g.norm.bias, training=True)
    expected = torch.tanh(conv(x.relu(), g.conv, padding=1))
    torch.testing.assert_close(g(LABELS, z), expected)


def test_residual_critic_is_its_formula() -> None:
    h = small(WGANResidualCritic, image_size=32, channels=2)
    randomise(h)
    x = images(5, 2, 32)
    first, down, *plain = h.blocks
    y = half(conv(conv(x, first.conv1, padding=1).relu(), first.conv2, padding=1))
    y = y + conv(half(x), first.shortcut)
    z = half(conv(conv(y.relu(), down.conv1, padding=1).relu(), down.conv2, padding=1))
    y = z + half(conv(y, down.shortcut))
    for block in plain:
        y = y + conv(conv(y.relu(), block.conv1, padding=1).relu(), block.conv2, padding=1)
    assert y.shape[-1] == 8
    features = y.relu().mean((2, 3))
    expected = [
        f @ (h.head.linear.weight[0] + h.head.embedding.weight[c]) + h.head.linear.bias[0]
        for f, c in zip(features, LABELS.tolist(), strict=True)
    ]
    torch.testing.assert_close(h(x, LABELS), torch.stack(expected))


def test_convolutional_pair_is_its_formula() -> None:
    g, h = small(WGANConvGenerator, image_size=16, z=5), small(WGANConvCritic, image_size=16)
    randomise(g)
    randomise(h)
    z = torch.randn(5, 5, dtype=torch.float64)
    x = conditional_norm(
        (z @ g.linear.weight.T + g.linear.bias)[..., None, None], g.norms[0], LABELS
    )
    x = x.relu().view(5, 8, 4, 4)
    options: dict[str, Any] = {"stride": 2, "padding": 2, "output_padding": 1}
    x = F.conv_transpose2d(x, g.ups[0].weight, g.ups[0].bias, **options)
    x = conditional_norm(x, g.norms[1], LABELS).relu()
    x = torch.tanh(F.conv_transpose2d(x, g.ups[1].weight, g.ups[1].bias, **options))
    torch.testing.assert_close(g(LABELS, z), x)
    features = x
    for down in h.downs:
        features = conv(features, down, stride=2, padding=2)
        features = torch.where(features > 0, features, 0.2 * features)
    features = features.flatten(1)
    head = h.head
    expected = features @ head.linear.weight[0] + head.linear.bias[0]
    expected = expected + (features * head.embedding.weight[LABELS]).sum(1)
    assert [tuple(down.weight.shape) for down in h.downs] == [(4, 1, 5, 5), (8, 4, 5, 5)]
    torch.testing.assert_close(h(x, LABELS), expected)


@pytest.mark.parametrize("make", GENERATORS)
def test_generators_draw_their_noise_and_know_the_class(make) -> None:
    g = small(make, z=5)
    torch.manual_seed(4)
    drawn = g(LABELS)
    torch.manual_seed(4)
    torch.testing.assert_close(g(LABELS, torch.randn(5, 5, dtype=torch.float64)), drawn)
    assert -1 <= drawn.min() < 0 < drawn.max() <= 1
    z = torch.randn(1, 5, dtype=torch.float64).expand(5, 5)
    randomise(g)
    same = g(LABELS, z)
    torch.testing.assert_close(same[1], same[4])
    assert (same[0] - same[1]).abs().max() > 1e-3


@pytest.mark.parametrize("make", CRITICS)
@pytest.mark.parametrize("conditioning", ["projection", "auxiliary"])
def test_critics_judge_each_sample_alone(make, conditioning) -> None:
    h, x = small(make, conditioning=conditioning), images()
    scores = h(x, LABELS)
    torch.testing.assert_close(h(x[1:3], LABELS[1:3]), scores[1:3])
    others = h(x, (LABELS + 1) % 3)
    assert torch.equal(scores, others) == (conditioning == "auxiliary")
    if conditioning == "auxiliary":
        judged, classes = h.judge(x, LABELS)
        torch.testing.assert_close(judged, scores)
        assert classes.shape == (5, 3)
        assert classes.std() > 0
    else:
        with pytest.raises(SettingsError, match=f"{make.__name__}.judge: .*auxiliary"):
            h.judge(x, LABELS)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [8, 28])
def test_every_parameter_has_a_gradient(pair, size) -> None:
    g, h = (small(make, image_size=size) for make in pair)
    drawn = g(LABELS)
    (h(drawn, LABELS).square().sum() + gradient_penalty(h, drawn, 0 * drawn, LABELS)).backward()
    for module in (g, h):
        for name, p in module.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().sum() > 0, name


def test_initialisation() -> None:
    """He's and Glorot's bounds; a transposed convolution's outputs meet a quarter of its kernel."""
    g, h = small(WGANConvGenerator, width=16, z=50), small(WGANResidualCritic, width=16)
    (up,), conv1 = g.ups, h.blocks[1].conv1
    for p, bound in (
        (up.weight, (6 / (16 * 25 / 4)) ** 0.5),
        (conv1.weight, (6 / (16 * 9)) ** 0.5),
        (g.linear.weight, (6 / (50 + 256)) ** 0.5),
    ):
        assert 0.95 * bound < p.abs().max() <= bound
        assert p.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)
    assert g.norms[0].gain.weight.abs().max() == g.norms[0].offset.weight.abs().max() == 0
    assert up.bias.abs().max() == conv1.bias.abs().max() == g.linear.bias.abs().max() == 0


@pytest.mark.parametrize("make", [*GENERATORS, *CRITICS])
def test_what_is_refused(make) -> None:
    name = make.__name__
    with pytest.raises(SettingsError, match=f"{name}: image_size=20 is not supported.* 8, 16, 28"):
        small(make, image_size=20)
    with pytest.raises(SettingsError, match=f"{name}: width=0 must be at least 1"):
        small(make, width=0)
    arguments = [torch.tensor([0, 3])]
    if make in CRITICS:
        arguments.insert(0, images(2))
        with pytest.raises(SettingsError, match=f"{name}: conditioning='label' must be one of"):
            small(make, conditioning="label")
        with pytest.raises(DataError, match=rf"{name}: images have shape \(5, 1, 9, 9\)"):
            small(make)(images(size=9), LABELS)
    else:
        with pytest.raises(DataError, match=rf"{name}: noise has shape \(4, 5\)"):
            small(make, z=5)(LABELS, torch.zeros(4, 5))
    with pytest.raises(DataError, match=f"{name}: labels range over 0..3"):
        small(make)(*arguments)


# The penalty in an objective: R shifts the real images, the critic H meets them, G follows H.


class Critic(nn.Module):
    """Smooth, and small enough for differences."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(0.5 * torch.randn(4, 3).double())
        self.v = nn.Parameter(torch.randn(2, 3).double())

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return (torch.tanh(x.flatten(1) @ self.w) * self.v[labels]).sum(1)


class Maker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 4).double())

    def forward(self, labels: Tensor) -> Tensor:
        noise = 0.3 * torch.randn(len(labels), 4, dtype=torch.float64)
        return torch.tanh(self.w[labels] + noise).view(-1, 1, 2, 2)


def wgan_problems(product: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    H, G = mlopt.Variable(Critic(), "h"), mlopt.Variable(Maker(), "g")
    R = mlopt.Variable(nn.Parameter(torch.tensor([0.4, -0.2]).double()), "r")
    real, labels = images(4, 1, 2), torch.tensor([0, 1, 1, 0])
    batches = [(real, labels)]

    @mlopt.problem(over=H, given=[G, R], data=batches, hypergrad=mlopt.OneStep(0.1, product))
    def critic(h, g, r, batch):
        x, y = batch
        x, fake = x + r[y].view(-1, 1, 1, 1), g(y)
        loss = wasserstein_discriminator_loss(h(x, y), h(fake, y))
        return loss + 10 * gradient_penalty(h, x, fake, y)

    @mlopt.problem(over=G, given=[H], data=batches, hypergrad=mlopt.OneStep(2.0, product))
    def generator(g, h, batch):
        _, y = batch
        return wasserstein_generator_loss(h(g(y), y))

    @mlopt.problem(over=R, given=[G], data=batches)
    def upper(r, g, batch):
        x, y = batch
        return (g(y) - x).square().mean() + 0.1 * r.square().sum()

    return {
        "H": H, "G": G, "R": R, "critic": critic, "generator": generator, "upper": upper,
        "batch": batches[0],
    }  # fmt: skip


def upper_value(case: dict[str, Any], engine: mlopt.Engine, r: Tensor) -> Tensor:
    """The upper loss as a plain program of r: G looks ahead, and H, which looks ahead, follows."""
    x, y = case["batch"]

    def seeded(node: str) -> None:
        torch.manual_seed(engine.seed_of(case[node]))

    def net(variable: str, tensors: dict[str, Tensor]) -> Any:
        return materialise(case[variable].value, tensors)

    def standing(variable: str) -> dict[str, Tensor]:
        named = case[variable].value.named_parameters()
        return {k: p.detach().clone().requires_grad_() for k, p in named}

    with torch.random.fork_rng():
        h, g = standing("H"), standing("G")
        critic = net("H", h)
        seeded("critic")
        fake = net("G", g)(y)
        shifted = x + torch.stack([r[c] for c in y.tolist()]).view(-1, 1, 1, 1)
        u = torch.rand(4, dtype=torch.float64).view(-1, 1, 1, 1)
        between = (1 - u) * shifted + u * fake
        (slope,) = torch.autograd.grad(critic(between, y).sum(), between, create_graph=True)
        penalty = 10 * (slope.square().sum((1, 2, 3)).sqrt() - 1).square().mean()
        loss = (critic(fake, y) - critic(shifted, y)).mean() + penalty
        slopes = torch.autograd.grad(loss, list(h.values()), create_graph=True)
        ahead = {k: p - 0.1 * s for (k, p), s in zip(h.items(), slopes, strict=True)}
        seeded("generator")
        loss = -net("H", ahead)(net("G", g)(y), y).mean()
        slopes = torch.autograd.grad(loss, list(g.values()))
        g = {k: p - 2.0 * s for (k, p), s in zip(g.items(), slopes, strict=True)}
        seeded("upper")
        return ((net("G", g)(y) - x).square().mean() + 0.1 * r.square().sum()).detach()


@pytest.mark.parametrize(
    ("product", "tolerance"), [(mlopt.Exact(), 1e-6), (mlopt.Central(1e-3), 1e-4)]
)
def test_hypergradient_through_the_penalty(product, tolerance) -> None:
    """R -> H' (with the penalty) -> G' -> upper loss, against differences of a plain program."""
    case = wgan_problems(product)
    engine = mlopt.Engine([case["critic"], case["generator"], case["upper"]], seed=5)
    found = engine.hypergradient(case["upper"])[case["R"]][""]
    r, expected = case["R"].value.detach(), []
    for e in torch.eye(2, dtype=torch.float64) * 1e-4:
        ahead, behind = (upper_value(case, engine, r + s * e) for s in (1, -1))
        expected.append((ahead - behind) / 2e-4)
    expected = torch.stack(expected)
    indirect = expected - 0.2 * r  # what comes through the two networks
    assert indirect.abs().min() > 1e-3
    assert_close(found - 0.2 * r, indirect, tolerance, "hypergradient through the penalty")


@pytest.mark.parametrize("name", ["wgan-gp", "wgan-gp-conv"])
def test_an_engine_trains_the_family(name) -> None:
    """Critic and generator as two problems with Adam: losses stay finite and both networks move."""
    torch.manual_seed(0)
    g, h = make_gan(name, 8, 1, 3, width=2, z=4)
    G, H = mlopt.Variable(g, "g"), mlopt.Variable(h, "h")
    data = [(images().float(), LABELS)]
    adam = {v: torch.optim.Adam(v.parameters(), 1e-3, betas=(0.0, 0.9)) for v in (G, H)}

    @mlopt.problem(over=H, given=[G], data=data, optimizer=adam[H], hypergrad=mlopt.Frozen())
    def critic(h, g, batch):
        x, y = batch
        fake = g(y)
        loss = wasserstein_discriminator_loss(h(x, y), h(fake, y))
        return loss + 10 * gradient_penalty(h, x, fake, y)

    @mlopt.problem(over=G, given=[H], data=data, optimizer=adam[G])
    def generator(g, h, batch):
        _, y = batch
        return wasserstein_generator_loss(h(g(y), y))

    before = [p.detach().clone() for p in (*g.parameters(), *h.parameters())]
    engine = mlopt.Engine([critic, generator])
    engine.run(steps=2, progress=False)
    after = [*g.parameters(), *h.parameters()]
    assert all(p.isfinite().all() for p in after)
    moved = [not torch.equal(p, old) for p, old in zip(after, before, strict=True)]
    assert sum(moved) > 0.8 * len(moved)
