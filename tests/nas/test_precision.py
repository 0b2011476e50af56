"""Networks under autocast: their cells compute in the shorter format, and nothing else does."""

from __future__ import annotations

import copy

import pytest
import torch
from compare import kills, near
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from mlopt._batch_norm import BatchNorm2d
from mlopt.generators import GANS, make_gan
from mlopt.nas import GENOTYPES, SPACES, EvaluationNetwork, ImageNetNetwork
from mlopt.nas.edge_convolutions import Normalisation
from mlopt.nas.precision import MixedPrecision

EVALUATED = {
    "small": lambda: EvaluationNetwork(GENOTYPES["DARTS_V2"], 4, 3, 5, auxiliary=True),
    "large": lambda: ImageNetNetwork(GENOTYPES["PDARTS"], 4, 3, 5, auxiliary=False),
}


def logits_of(network: MixedPrecision, *inputs: object) -> torch.Tensor:
    out = network(*inputs)
    return out[0] if isinstance(out, tuple) else out


def formats(network: nn.Module, *inputs: object) -> set[torch.dtype]:
    """Of what the convolutions of a forward pass give."""
    seen: set[torch.dtype] = set()
    hooks = [
        m.register_forward_hook(lambda m, args, out: seen.add(out.dtype))
        for m in network.modules()
        if isinstance(m, nn.Conv2d)
    ]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    return seen


def check(network: MixedPrecision, *inputs: object) -> None:
    plain = logits_of(network, *inputs)
    assert formats(network, *inputs) == {torch.float32}
    network.autocast = torch.bfloat16
    short = logits_of(network, *inputs)
    assert formats(network, *inputs) == {torch.bfloat16}
    assert short.dtype == torch.float32
    # Near the plain logits, and not the same. Three cells of up to nine convolutions on the longest
    # way; the input, weights and output of each are rounded by 2^-9.
    near(short, plain, 27 * 3 * 2**-9, why="roundings of bfloat16")
    kills(short, plain, 27 * 3 * 2**-24)  # farther than float32's would bring them
    short.square().sum().backward()
    assert {p.grad.dtype for p in network.parameters() if p.grad is not None} == {torch.float32}
    network.autocast = None
    assert torch.equal(logits_of(network, *inputs), plain)


@pytest.mark.parametrize("name", SPACES)
def test_supernets(name: str) -> None:
    torch.manual_seed(0)
    space = SPACES[name](channels=4, layers=3, nodes=2)
    network, a = space.supernet(classes=5), space.architecture()
    network.eval()  # skip dropout of P-DARTS is drawn anew in each pass
    x, weights = torch.randn(6, 3, 16, 16), a()
    check(network, x, weights)
    network.autocast = torch.bfloat16
    assert network.features(x, weights).dtype == torch.float32
    grads = torch.autograd.grad(network(x, a()).square().sum(), list(a.parameters()))
    assert all(g.dtype == torch.float32 and g.abs().sum() > 0 for g in grads)


@pytest.mark.parametrize("name", EVALUATED)
def test_evaluation_networks(name: str) -> None:
    torch.manual_seed(0)
    network = EVALUATED[name]()
    x = torch.randn(4, 3, 32, 32)
    check(network, x)
    if network.auxiliary is not None:
        network.autocast = torch.bfloat16
        assert network(x)[1].dtype == torch.float32


def test_finite_differences_are_lost_in_rounding() -> None:
    """At DARTS' radius of 0.01, what bfloat16 adds is as large as the difference of float32."""
    torch.manual_seed(0)
    space = SPACES["darts"](channels=4, layers=3, nodes=2)
    a, w = space.architecture(), space.supernet(classes=10)
    (x, y), (xv, yv) = [(torch.randn(16, 3, 8, 8), torch.randint(10, (16,))) for _ in range(2)]
    weights = list(w.parameters())
    v = torch.autograd.grad(cross_entropy(w(xv, a()), yv), weights, materialize_grads=True)
    size = 0.01 / torch.cat([t.flatten() for t in v]).norm()

    def difference() -> torch.Tensor:
        found = []
        for sign in (1, -2, 1):  # there, to the other side, and back
            with torch.no_grad():
                torch._foreach_add_(weights, torch._foreach_mul(v, sign * size.item()))
            grads = torch.autograd.grad(cross_entropy(w(x, a()), y), list(a.parameters()))
            found.append(torch.cat([g.flatten() for g in grads]))
        return found[0] - found[1]

    exact = difference()
    w.autocast = torch.bfloat16
    assert (difference() - exact).norm() > 0.5 * exact.norm()


def curvature(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A product with the second derivative of a sum of cosines of what is normalised."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(norm(x).cos().sum(dtype=torch.float64), x, create_graph=True)
    along = torch.linspace(-1, 1, x.numel(), dtype=x.dtype).reshape(x.shape)
    return torch.autograd.grad(first, x, along)[0]


def test_float16_is_normalised_so_that_it_has_a_second_derivative() -> None:
    """The channel's deviation is 0.01, and the cube of its inverse no number of float16."""
    g = torch.Generator().manual_seed(0)
    x = (1 + 0.01 * torch.randn(4, 1, 2, 2, generator=g)).half()
    found = curvature(BatchNorm2d(1), x)
    assert found.dtype == torch.float16
    expected = curvature(nn.BatchNorm2d(1).double(), x.double())
    near(found.double(), expected, 2**-8, why="the result and what is normalised, in float16")


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("norm", "plain"),
    [
        (BatchNorm2d(3), nn.BatchNorm2d(3)),
        (BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, affine=False)),
        (Normalisation(3), nn.BatchNorm2d(3, affine=False)),
    ],
)
def test_a_network_in_float16_is_normalised_as_torch_does_it(
    norm: nn.Module, plain: nn.Module, training: bool
) -> None:
    """`network.half()` has parameters and statistics of float16, beside which no float32 goes."""
    x = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).half()
    norm, plain = (copy.deepcopy(n).half().train(training) for n in (norm, plain))
    assert torch.equal(norm(x), plain(x))
    for name, kept in norm.named_buffers():
        assert torch.equal(kept, plain.get_buffer(name))


@pytest.mark.parametrize("make", [*SPACES, *EVALUATED, *GANS])
def test_all_networks_normalise_so(make: str) -> None:
    if make in SPACES:
        networks = [SPACES[make](channels=4, layers=3, nodes=2).supernet(classes=5)]
    elif make in EVALUATED:
        networks = [EVALUATED[make]()]
    else:
        networks = list(make_gan(make, 8, 1, 5, width=4))
    kinds = {type(m) for n in networks for m in n.modules() if isinstance(m, _BatchNorm)}
    assert kinds <= {BatchNorm2d}
