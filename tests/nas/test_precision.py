"""Networks under autocast: their cells compute in the shorter format, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from compare import kills, near
from torch import nn
from torch.nn.functional import cross_entropy

from mlopt.nas import GENOTYPES, SPACES, EvaluationNetwork, ImageNetNetwork
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
