"""Law: what a step shows of parameters, buffers and batches stays what it was in that step."""

from __future__ import annotations

import pytest
import torch
from small import F64, sgd
from torch import nn

import mlopt

X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.25]], dtype=F64)


class Counting(nn.Module):
    """A weight, and a buffer that each evaluation moves on; the buffer may be assigned anew."""

    def __init__(self, anew: bool = False) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2, dtype=F64))
        self.register_buffer("n", torch.zeros(2, dtype=F64))
        self.anew = anew

    def forward(self, x):
        self.n = self.n + 1 if self.anew else self.n.add_(1)
        return x @ self.w


ALIASES = {
    "parameter": lambda w, x: w.w,
    "detached": lambda w, x: w.w.detach(),
    "data": lambda w, x: w.w.data,
    "view": lambda w, x: w.w.view(1, 2)[:, 1:],
    "numpy": lambda w, x: torch.from_numpy(w.w.detach().numpy()),
    "buffer": lambda w, x: w.n,
    "view of a buffer": lambda w, x: w.n[:1],
    "batch": lambda w, x: x,
    "view of a batch": lambda w, x: x.T[0],
    "inside": lambda w, x: [w.w, {"n": w.n}],
}


def flat(value):
    if isinstance(value, torch.Tensor):
        return [value]
    return [
        t for part in (value.values() if isinstance(value, dict) else value) for t in flat(part)
    ]


def copied(value):
    return [t.detach().clone() for t in flat(value)]


@pytest.mark.parametrize("method", [mlopt.OneStep(), mlopt.Unrolled(steps=2)], ids=repr)
@pytest.mark.parametrize("name", ALIASES)
def test_what_is_shown_stays(name, method):
    alias = ALIASES[name]
    W = mlopt.Variable(Counting(anew=name == "inside"), "w")
    R = mlopt.Variable(nn.Parameter(torch.zeros(1, dtype=F64)), "r")
    data = [X.clone()]  # of which the memory is used again

    # What is read only by a problem that does not own it is in memory that is used again at once.
    @mlopt.signal(given=[W], name="seen")
    def seen(w):
        w(X)
        value = alias(w, X)
        shown = flat(value)[0]
        return {"alias": shown, "copy": shown.detach().clone()}

    def shown(loss, w, x):
        value = alias(w, x)
        return loss, {"alias": value, "copy": copied(value)}

    @mlopt.problem(over=W, given=[R], data=data, optimizer=sgd(W, 0.1), hypergrad=method)
    def low(w, r, x):
        return shown((w(x) - 1).square().mean() * r.exp().sum(), w, x)

    @mlopt.problem(over=R, given=[W, seen], data=data, optimizer=sgd(R, 0.1))
    def top(r, w, s, x):
        loss = w(x).square().mean() + r.square().sum() + (s["alias"] - s["copy"]).square().sum()
        return shown(loss, w, x)

    engine = mlopt.Engine([low, seen, top])
    history = []
    for _ in range(3):
        metrics = engine.step()
        history.append((metrics, engine.signals["seen"]))
        data[0] += 1
    for metrics, signal in history:
        for label in ("low", "top"):
            pairs = zip(
                flat(metrics[f"{label}/alias"]), flat(metrics[f"{label}/copy"]), strict=True
            )
            assert all(torch.equal(a, b) for a, b in pairs), label
        assert torch.equal(signal["alias"], signal["copy"])


def test_a_loss_that_is_the_parameter():
    R = mlopt.Variable(nn.Parameter(torch.ones((), dtype=F64)), "r")
    p = mlopt.problem(over=R, optimizer=sgd(R, 0.25), name="p")(lambda r: r.view(()))
    engine = mlopt.Engine([p])
    losses = [engine.step()["p/loss"] for _ in range(3)]
    assert [loss.item() for loss in losses] == [1.0, 0.75, 0.5]
