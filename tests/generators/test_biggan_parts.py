"""BigGAN's pieces: attention, conditional BatchNorm, spectral norm, initialisation."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from compare import exact, near, rounding
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from mlopt._errors import SettingsError
from mlopt.generators import (
    BigGANDiscriminator,
    BigGANGenerator,
    ConditionalBatchNorm,
    SelfAttention,
    initialize,
    spectral_normalize,
)

F64 = torch.float64


# Attention.


def test_attention_is_its_formula() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(16).double()
    assert [attention.theta.out_channels, attention.phi.out_channels] == [2, 2]
    assert [attention.g.out_channels, attention.o.out_channels] == [8, 16]
    nn.init.constant_(attention.gamma, 0.7)
    x = torch.randn(2, 16, 4, 6, dtype=F64)
    theta, phi, g, o = (
        m.weight.detach()[:, :, 0, 0]
        for m in (attention.theta, attention.phi, attention.g, attention.o)
    )
    expected = x.clone()
    for b in range(2):

        def pooled(weight: Tensor, image: Tensor) -> list[Tensor]:
            values = torch.einsum("oc,chw->ohw", weight, image)
            return [
                values[:, r : r + 2, c : c + 2].amax(dim=(1, 2))
                for r in range(0, 4, 2)
                for c in range(0, 6, 2)
            ]

        keys, values = pooled(phi, x[b]), pooled(g, x[b])
        for r in range(4):
            for c in range(6):
                query = theta @ x[b, :, r, c]
                scores = [math.exp(float(query @ key)) for key in keys]
                mixed = sum(s * v for s, v in zip(scores, values, strict=True)) / sum(scores)
                expected[b, :, r, c] += 0.7 * (o @ mixed)
    # sums over 16 channels, 2 and 8 of attention's, an exponential, a sum over six places
    exact(attention(x), expected, rounding(16 + 2 + 8 + 2 * 6 + 10))


def test_attention_begins_as_the_identity() -> None:
    x = torch.randn(2, 3, 7, 7)  # fewer than eight channels, an odd side
    attention = SelfAttention(3)
    assert torch.equal(attention(x), x)
    with pytest.raises(SettingsError, match="channels=0"):
        SelfAttention(0)


# Conditional BatchNorm.


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("by", ["classes", "features"])
def test_conditional_batch_norm_against_a_loop(training, by) -> None:
    torch.manual_seed(0)
    norm = ConditionalBatchNorm(3, **{by: 4}).double().train(training)
    norm.norm.running_mean += 0.3
    norm.norm.running_var *= 2.0
    x = torch.randn(5, 3, 2, 2, dtype=F64) * 3 + 1
    y = torch.tensor([0, 3, 3, 1, 2]) if by == "classes" else torch.randn(5, 4, dtype=F64)
    expected = torch.empty_like(x)
    for c in range(3):
        values = x[:, c].flatten()
        mean = values.mean() if training else norm.norm.running_mean[c]
        variance = values.var(correction=0) if training else norm.norm.running_var[c]
        for i in range(5):
            gain, offset = (
                m.weight[y[i], c] if by == "classes" else (m.weight[c] * y[i]).sum()
                for m in (norm.gain, norm.offset)
            )
            expected[i, c] = (x[i, c] - mean) / (variance + 1e-5).sqrt() * (1 + gain) + offset
    # a mean and a variance of twenty values, a root, a quotient, gains as sums over four
    exact(norm(x, y), expected, rounding(2 * 20 + 2 * 4 + 10))


def test_conditional_batch_norm_follows_the_batches() -> None:
    norm = ConditionalBatchNorm(1, classes=2).double()
    norm(torch.tensor([1.0, 3.0], dtype=F64).view(2, 1, 1, 1), torch.tensor([0, 1]))
    exact(norm.norm.running_mean, [0.1 * 2], rounding(10))
    exact(norm.norm.running_var, [0.9 + 0.1 * 2], rounding(10))  # unbiased


def test_conditional_batch_norm_refuses() -> None:
    with pytest.raises(SettingsError, match="give one of them"):
        ConditionalBatchNorm(3)
    with pytest.raises(SettingsError, match="give one of them"):
        ConditionalBatchNorm(3, classes=2, features=2)
    with pytest.raises(SettingsError, match="features=0"):
        ConditionalBatchNorm(3, features=0)


# Spectral norm.


def normalized_layers(network: nn.Module) -> list[Any]:
    return [m for m in network.modules() if is_parametrized(m)]


STOP = 1e-7


def sigma(layer: Any) -> float:
    """What the layer's weight is divided by; this looks at the weight once."""
    original = layer.parametrizations.weight.original
    return float((original.norm() / layer.weight.norm()).detach())


@pytest.fixture
def pair() -> tuple[BigGANGenerator, BigGANDiscriminator]:
    torch.manual_seed(0)
    g = BigGANGenerator(8, 1, 3, 6, 2, shared=3, hierarchical=True, attention=[8], init="xavier")
    d = BigGANDiscriminator(8, 1, 3, 2, attention=[4], init="xavier")
    return g.double(), d.double()


def test_sigma_is_the_largest_singular_value(pair) -> None:
    layers = [layer for network in pair for layer in normalized_layers(network)]
    for layer in layers:
        matrix = layer.parametrizations.weight.original.detach().flatten(1)
        largest = float(torch.linalg.svdvals(matrix)[0])
        assert 0.85 * largest < sigma(layer) < 1.001 * largest  # torch begins with 15 steps
        steps = (sigma(layer) for _ in range(1000))
        assert any(abs(s / largest - 1) < STOP for s in steps)
        weight = layer.weight.detach().flatten(1)
        # A step later; from below, the error only falls.
        near(torch.linalg.svdvals(weight)[0], 1, 2 * STOP, why="the power iteration's tolerance")


def test_what_is_normalised(pair) -> None:
    g, d = pair
    kinds = (nn.Conv2d, nn.Linear)
    assert set(normalized_layers(g)) == {m for m in g.modules() if isinstance(m, kinds)}
    kinds = (*kinds, nn.Embedding)
    assert set(normalized_layers(d)) == {m for m in d.modules() if isinstance(m, kinds)}
    plain = BigGANDiscriminator(8, 1, 3, 2, spectral_norm=False)
    assert not normalized_layers(plain)


def test_one_power_step_a_pass_in_training_mode_only(pair) -> None:
    g, d = pair
    labels = torch.tensor([0, 1, 2])
    x = torch.randn(3, 1, 8, 8, dtype=F64)
    for network, call in ((g, lambda: g(labels)), (d, lambda: d(x, labels))):
        layers = normalized_layers(network)
        before = []
        for layer in layers:
            state = layer.parametrizations.weight[0]
            before.append((state._u.clone(), state._v.clone()))
        network.eval()
        call()
        for layer, (u, v) in zip(layers, before, strict=True):
            state = layer.parametrizations.weight[0]
            assert torch.equal(state._u, u)
            assert torch.equal(state._v, v)
        network.train()
        call()
        for layer, (_, v) in zip(layers, before, strict=True):
            state = layer.parametrizations.weight[0]
            matrix = layer.parametrizations.weight.original.detach().flatten(1)
            u = matrix @ v
            u = u / u.norm()
            v = matrix.T @ u
            # two products with the matrix, two norms; what cancels in sums of both signs
            bound = rounding(2 * sum(matrix.shape) + 20, condition=4)
            exact((state._u, state._v), (u, v / v.norm()), bound)


def test_the_derivative_is_that_of_the_singular_value() -> None:
    torch.manual_seed(0)
    layer: Any = nn.Linear(4, 3).double()
    spectral_normalize(layer)
    for _ in range(1000):
        sigma(layer)
    original = layer.parametrizations.weight.original
    coefficients = torch.randn(3, 4, dtype=F64)
    (found,) = torch.autograd.grad((coefficients * layer.weight.sin()).sum(), original)
    w = original.detach().clone().requires_grad_()
    weight = w / torch.linalg.svdvals(w)[0]
    (expected,) = torch.autograd.grad((coefficients * weight.sin()).sum(), w)
    # The vectors, which are done after 1000 steps, are as well known as the values are apart.
    first, second, _ = torch.linalg.svdvals(w.detach())
    exact(found, expected, rounding(10 * w.numel(), condition=float(first / (first - second))))


def test_a_normalised_network_can_be_copied_and_loaded(pair) -> None:
    g, _ = pair
    twin = copy.deepcopy(g)
    other = BigGANGenerator(8, 1, 3, 6, 2, shared=3, hierarchical=True, attention=[8]).double()
    other.load_state_dict(g.state_dict())
    z, labels = torch.randn(3, 6, dtype=F64), torch.arange(3)
    expected = g.eval()(labels, z)
    assert torch.equal(twin.eval()(labels, z), expected)
    assert torch.equal(other.eval()(labels, z), expected)


# Initialisation.

CHANCE = "five standard errors"


def weights(network: nn.Module) -> list[Tensor]:
    kinds = (nn.Conv2d, nn.Linear, nn.Embedding)
    return [m.weight.detach() for m in network.modules() if isinstance(m, kinds)]


def networks(init: Any) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        BigGANGenerator(8, 1, 40, 64, 8, init=init, spectral_norm=False),
        BigGANDiscriminator(8, 1, 40, 8, init=init, spectral_norm=False),
    ]


def test_normal_weights() -> None:
    for network in networks("normal"):
        for weight in weights(network):
            if weight.numel() > 500:
                n = weight.numel()
                near(weight.std(), 0.02, 5 / math.sqrt(2 * n), why=CHANCE)
                near(weight.mean(), 0, 5 / math.sqrt(n), scale=0.02, why=CHANCE)


def test_orthogonal_weights() -> None:
    for network in networks("orthogonal"):
        for weight in weights(network):
            matrix = weight.double().flatten(1)
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            # a reflection for each row, over all columns, in float32
            bound = rounding(sum(wide.shape), dtype=torch.float32)
            exact(wide @ wide.T, torch.eye(len(wide), dtype=F64), bound)


def test_xavier_weights() -> None:
    for network in networks("xavier"):
        for weight in weights(network):
            field = weight[0][0].numel() if weight.ndim == 4 else 1
            bound = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * field))
            assert weight.abs().max() <= bound
            if weight.numel() > 500:
                assert weight.abs().max() > 0.98 * bound
                error = math.sqrt(0.8 / weight.numel())  # fourth moment 9 / 5 of the square
                near(weight.var(), bound**2 / 3, 5 * error, why=CHANCE)


def test_biases_stay_and_a_normalised_weight_is_refused() -> None:
    layer = nn.Linear(3, 2)
    bias = layer.bias.detach().clone()
    initialize(layer, "normal")
    assert torch.equal(layer.bias, bias)
    spectral_normalize(layer)
    with pytest.raises(SettingsError, match="parametrized.*initialize before"):
        initialize(layer, "normal")
