"""Networks under autocast: their cells compute in the shorter format, and nothing else does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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
    # Eight bits of mantissa: near the plain logits, and not the same.
    error = ((short - plain).norm() / plain.norm()).item()
    assert 1e-4 < error < 0.2
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
