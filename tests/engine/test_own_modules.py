"""Law 8: modules are the user's, with their frozen, tied and unused parameters."""

from __future__ import annotations

import pytest
import torch
from compare import agree, exact, rounding
from engine.plain_loop import DATA
from oracles import sweep_rounding
from small import assert_same, bilevel, mlp, seeded, sgd
from torch import nn
from torch.nn.functional import mse_loss

import mlopt


@pytest.mark.parametrize(
    ("product", "bound", "why"),
    [
        (mlopt.Exact(), sweep_rounding(1, operations=100, condition=10), ""),
        (mlopt.Central(1e-3), 30 * 1e-3**2 / 6, "radius^2 / 6 of the third derivative"),
        (mlopt.OneSided(1e-4), 10 * 1e-4 / 2, "radius / 2 of the second derivative"),
    ],
)
def test_hypergradient_with_frozen_tied_and_unused_parameters(product, bound, why):
    """D21 and D22: the same as of a network in which these parameters are constants."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(3, 4)
            self.frozen.requires_grad_(requires_grad=False)
            self.one = nn.Linear(4, 4)
            self.two = nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.unused = nn.Linear(4, 4)
            self.last = nn.Linear(4, 1)

        def forward(self, x):
            h = torch.tanh(self.frozen(x))
            return self.last(torch.tanh(self.two(torch.tanh(self.one(h)))))

    net = seeded(1, Net)
    unused = net.unused.weight.detach().clone()
    case = bilevel(
        net,
        optimizer=lambda v: torch.optim.SGD(v.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1),
        hypergrad=mlopt.OneStep(product=product),
    )
    engine = case.engine()
    (x, y), (xv, yv) = case.train[0], case.valid[0]
    a = case.A.value.detach().clone().requires_grad_()
    used = {k: p for k, p in net.named_parameters() if p.requires_grad and "unused" not in k}
    loss = mse_loss(net(x * a.exp()), y)
    gradient = torch.autograd.grad(loss, list(used.values()), create_graph=True)
    ahead = {k: p - 0.3 * (g + 0.1 * p) for (k, p), g in zip(used.items(), gradient, strict=True)}
    value = mse_loss(torch.func.functional_call(net, ahead, (xv,)), yv) + 0.01 * a.square().sum()
    (expected,) = torch.autograd.grad(value, a)
    (found,) = engine.hypergradient(case.upper).values()
    agree(found[""], expected, bound, why)
    own = engine.hypergradient(case.lower)[case.W]
    assert set(own) == set(used)  # by parameter name, each once where tied
    assert_same(own, {k: g.detach() for k, g in zip(used, gradient, strict=True)})
    engine.step()
    assert net.two.weight is net.one.weight
    assert torch.equal(net.unused.weight, unused)  # no gradient, so no decay
    assert net.unused.weight.grad is None
    assert not case.lower.optimizer.state[net.unused.weight]


@pytest.mark.parametrize("lr", [None, 0.3])
def test_the_look_ahead_moves_what_the_optimizer_holds(lr):
    """D9: what was kept from the optimizer on purpose stands still for readers too."""
    net = mlp()
    case = bilevel(
        net,
        optimizer=lambda v: torch.optim.SGD(v.value[2].parameters(), lr=0.3),
        hypergrad=mlopt.OneStep(lr=lr),
        lower={"clip": 1e-3},
    )
    engine = case.engine()
    (x, y), (xv, yv) = case.train[0], case.valid[0]
    a = case.A.value.detach().clone().requires_grad_()
    held = {k: p for k, p in net.named_parameters() if k.startswith("2.")}
    loss = mse_loss(net(x * a.exp()), y)
    gradient = torch.autograd.grad(loss, list(held.values()), create_graph=True)
    ahead = {k: p - 0.3 * g for (k, p), g in zip(held.items(), gradient, strict=True)}
    value = mse_loss(torch.func.functional_call(net, ahead, (xv,)), yv) + 0.01 * a.square().sum()
    (expected,) = torch.autograd.grad(value, a)
    found = engine.hypergradient(case.upper)[case.A][""]
    exact(found, expected, sweep_rounding(1, condition=20))
    metrics = engine.step()
    assert net[0].weight.grad is None
    norm = torch.cat([g.flatten() for g in gradient]).norm()  # which the clip is taken of
    exact(metrics["fit/gradient_norm"], norm, rounding(4 * 50))


def test_the_module_is_the_users_object():
    """The same module, of its class, with its parameters, hooks and other methods."""

    class Net(nn.Sequential):
        def energy(self, x):
            return self(x).square().mean()

    net = Net(*mlp())
    parameters = list(net.parameters())
    calls = []
    net.register_forward_hook(lambda module, args, out: calls.append(module))
    W = mlopt.Variable(net, "w")
    received = []

    @mlopt.problem(over=W, data=DATA, optimizer=sgd(W))
    def fit(w, batch):
        received.append(w)
        return w.energy(batch[0])

    engine = mlopt.Engine([fit])
    calls.clear()
    engine.step()
    assert all(w is net for w in received)
    assert calls == [net] * len(received)
    assert W.value is net
    assert all(p is q for p, q in zip(net.parameters(), parameters, strict=True))
    assert not hasattr(net, "parametrizations")
    assert fit.fn(net, DATA[0]).item() == fit(net, DATA[0]).item()


@pytest.mark.parametrize("kind", ["multihead", "functional", "layer"])
@pytest.mark.parametrize("product", [mlopt.Central(), mlopt.OneSided()])
def test_attention_below(kind, product):
    """D39: fused attention has no double backward; differences need none."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(1, 8)
            if kind == "layer":
                self.mix = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.1, batch_first=True)
            else:
                self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 1)

        def forward(self, x):
            h = self.embed(x[..., None])
            if kind == "multihead":
                h = self.mix(h, h, h, need_weights=False)[0]
            elif kind == "layer":
                h = self.mix(h)
            else:
                q = h[:, None]
                h = nn.functional.scaled_dot_product_attention(q, q, q)[:, 0]
                h = h + self.mix.out_proj(h)
            return self.last(h.mean(1))

    case = bilevel(
        seeded(1, Attention), hypergrad=mlopt.OneStep(lr=0.1, product=product), lower={"clip": 5.0}
    )
    engine = case.engine()
    if kind == "functional":
        case.W.value.mix.in_proj_weight.requires_grad_(requires_grad=False)
    (gradient,) = engine.hypergradient(case.upper).values()
    assert gradient[""].isfinite().all()
    own = 0.02 * case.A.value.detach()
    assert (gradient[""] - own).norm() > 1e-7  # something came through
    for _ in range(3):
        engine.step()
