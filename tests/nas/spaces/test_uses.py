"""Ways of running the supernets: features, compiled, stacked, in other formats, copied."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from compare import exact, near
from nas.reference import supernet_rounding
from nas.space_cases import TINY, VARIANTS, drawn

from mlopt.generators import SharedDiscriminator


@pytest.mark.parametrize("name", TINY)
def test_features_of_the_network_and_of_a_shared_discriminator(name):
    space = TINY[name]
    network, a = space.supernet(5, 1), space.architecture()
    size = 8 if space.form == "cifar" else 32
    x, y = torch.randn(2, 1, size, size), torch.tensor([1, 4])
    h = network.features(x, a())
    assert h.shape == (2, network.out_features)
    assert torch.equal(network.classifier(h), network(x, a()))
    judge = SharedDiscriminator(network, 5)
    logits = torch.cat(judge.pair(x, x.flip(0), y, a()))
    gradients = torch.autograd.grad(logits.square().sum(), list(a.parameters()))
    assert logits.shape == (4,)
    assert all(g.any() for g in gradients)


#: In every run, nodes of each: to trace a cell takes seconds, and one of two nodes has edges of
#: both strides. PC-DARTS cuts channels apart; P-DARTS' dropout follows the epoch.
COMPILED = {"pc-darts, imagenet": 1, "p-darts, dropout": 2}
FURTHER = [pytest.param(n, 2, marks=pytest.mark.slow) for n in VARIANTS if COMPILED.get(n) != 2]


@pytest.mark.parametrize(("name", "nodes"), [*COMPILED.items(), *FURTHER])
def test_compiles_as_one_graph(name, nodes):
    space = VARIANTS[name]
    if space.nodes != nodes:
        space = dataclasses.replace(space, nodes=nodes)
    network, a = space.supernet(3, 1), space.architecture()
    x = torch.randn(2, 1, 16, 16)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: network(x, a()), backend="eager", fullgraph=True)
    for epoch in (0, 1):  # the number of the epoch is read anew, not compiled in
        network.begin_epoch(epoch, 2)
        torch.manual_seed(0)
        expected = network(x, a())
        torch.manual_seed(0)
        assert torch.equal(compiled(x), expected)  # the same kernels
    torch._dynamo.reset()


@pytest.mark.parametrize("name", VARIANTS)
def test_runs_with_stacked_weights(name):
    space = VARIANTS[name]
    networks = [space.supernet(3, 1).double().eval() for _ in range(2)]
    architectures = [drawn(space.architecture(), seed) for seed in range(2)]
    x = torch.randn(2, 1, 16, 16, dtype=torch.float64)

    def run(weights, alpha):
        a = torch.func.functional_call(architectures[0], alpha)
        return torch.func.functional_call(networks[0], weights, (x, a))

    stacked = torch.func.vmap(run)(stack(networks), stack(architectures))
    for network, a, y in zip(networks, architectures, stacked, strict=True):
        exact(y, network(x, a()), supernet_rounding(1, 4, 2, 512))


def stack(modules):
    tensors = [{**dict(m.named_parameters()), **dict(m.named_buffers())} for m in modules]
    return {name: torch.stack([t[name] for t in tensors]) for name in tensors[0]}


@pytest.mark.parametrize("name", VARIANTS)
def test_memory_format_and_bf16(name):
    space = VARIANTS[name]
    network, a = space.supernet(3, 2).eval(), space.architecture()
    x = torch.randn(2, 2, 16, 16)
    expected = network(x, a())
    with torch.autocast("cpu", torch.bfloat16):
        low = network(x, a())
    assert low.dtype == torch.bfloat16
    # Twelve convolutions one after another, the stem's and the classifier's with them, whose inputs
    # and weights are rounded by 2^-9, as their outputs are.
    near(low, expected, 12 * 3 * 2**-9, why="roundings of bfloat16")
    # In float64: of float32, oneDNN's derivative of a 1x1 convolution of stride 2 with fewer
    # channels than a vector writes beyond its memory in this format (uxlfoundation/oneDNN#6035).
    network, a, x = network.double(), a.double(), x.double()
    expected = network(x, a())
    last = network.to(memory_format=torch.channels_last)
    x = x.to(memory_format=torch.channels_last)
    exact(last(x, a()), expected, supernet_rounding(1, 4, 2, 512))
    last.train()(x, a()).square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in a.parameters())


@pytest.mark.parametrize("name", VARIANTS)
def test_copies_and_state(name):
    space = VARIANTS[name]
    network = space.supernet(3, 1)
    network.begin_epoch(1, 4)
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        other.begin_epoch(2, 4)
        if network.scheduled is not None:
            assert other.scheduled != network.scheduled
    again = space.supernet(3, 1)
    again.load_state_dict(network.state_dict())
    assert again.scheduled == network.scheduled
