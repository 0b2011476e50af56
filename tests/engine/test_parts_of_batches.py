"""How a batch is split under `Engine(parts=m)`, what its parts count, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import exact, rounding

#: Asked for by the parts law; see tests/sweep/test_random_parts.py for graphs of every shape.
from engine.test_parts import LAW, data
from small import F64, seeded
from torch import Tensor, nn

import mlopt

# How a batch is split, and what its parts count.


def masked(w, batch):
    error = (batch["x"] @ w).square() * batch["mask"]
    return error.sum() / batch["mask"].sum()


def columns(w, batch):
    return (batch.T @ w).square().mean()


def listed(w, batch):
    assert len(batch["name"]) == len(batch["x"])
    return (
        sum((x @ w).square() * len(n) for x, n in zip(batch["x"], batch["name"], strict=True)) / 7
    )


X, MASK = data(5, 7)[0], torch.tensor([1.0, 0, 0, 1, 1, 1, 1], dtype=F64)
SPLITS: dict[str, Any] = {
    "count": (masked, {"x": X, "mask": MASK}, {"count": lambda b: b["mask"].sum()}),
    "count of whole numbers": (
        masked, {"x": X, "mask": MASK}, {"count": lambda b: int(b["mask"].sum())},
    ),
    "dimension": (columns, X.T.contiguous(), {"split": 1}),
    "names beside tensors": (
        lambda w, b: listed(w, b) * 7, {"x": X, "name": ["a", "bb", "c", "d", "ee", "f", "g"]},
        {"combine": "sum"},
    ),
    "sum": (lambda w, x: (x @ w).square().sum(), X, {"combine": "sum"}),
    "function": (
        lambda w, x: (x @ w).square().mean(), X, {"split": lambda x, parts: x.split([1, 6])},
    ),
    "whole": (lambda w, x: (x @ w).softmax(0).square().sum(), X, {"split": False}),
    "fewer samples than parts": (lambda w, x: (x @ w).square().mean(), X[:2], {}),
    "no samples": (lambda w, x: (x @ w).sum() + w.sum(), X[:0], {}),
    "two loaders": (
        lambda w, b: (b[0] @ w).square().mean() + (b[1] @ w).exp().mean(), X,
        {"data": ([data(6, 8)[0]], [data(7, 4)[0]])},
    ),
    "arrays": (
        lambda w, b: (torch.as_tensor(b["x"], device=w.device) @ w).square().mean(),
        {"x": X.numpy()}, {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLITS)
def test_how_a_batch_is_split(case):
    fn, batch, options = SPLITS[case]
    given = {"data": [batch], **options}
    w = torch.tensor([0.5, -1.0, 0.25], dtype=F64)

    def gradient(parts: int) -> Tensor:
        W = mlopt.Variable(w.clone().requires_grad_(), "w")
        made = mlopt.problem(over=W, **given)(fn)
        return mlopt.Engine([made], parts=parts).hypergradient(made)[W][""]

    exact(gradient(4), gradient(1), rounding(200, 10))


def test_class_means_are_sums_and_counts():
    def made(parts: int) -> list[Any]:
        W = mlopt.Variable(seeded(1, lambda: nn.Linear(3, 3)), "w")
        V = mlopt.Variable(seeded(2, lambda: nn.Linear(3, 3)), "v")
        options = {"data": [data(2)]}

        @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.1), **options)
        def first(w, batch):
            return nn.functional.cross_entropy(w(batch[0]), batch[1])

        @mlopt.signal(given=[W], data=[data(8)], combine="sum")
        def sums(w, batch):
            losses = nn.functional.cross_entropy(w(batch[0]), batch[1], reduction="none")
            member = nn.functional.one_hot(batch[1], 3)
            return (losses[:, None] * member).sum(0), member.sum(0)

        @mlopt.signal(given=[sums])
        def means(sums):
            return sums[0] / sums[1]

        @mlopt.signal(given=[W], data=[data(8)], combine="mean")
        def average(w, batch):
            return w(batch[0]).tanh().mean(0)

        @mlopt.problem(
            over=V,
            given=[means, average],
            optimizer=torch.optim.SGD(V.parameters(), lr=0.1),
            **options,
        )
        def second(v, weights, average, batch):
            each = nn.functional.cross_entropy(v(batch[0]) + average, batch[1], reduction="none")
            return (weights[batch[1]] * each).mean()

        engine = mlopt.Engine([first, sums, means, average, second], parts=parts)
        engine.step()
        return [engine.signals, *(p.detach() for p in V.parameters())]

    exact(made(3), made(1), LAW)


# What has no meaning is refused.


def test_refusals():
    W = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "w")
    sgd = torch.optim.SGD(W.parameters(), lr=0.1)

    def engine(batch: Any, fn: Any, **options: Any) -> mlopt.Engine:
        return mlopt.Engine(
            [mlopt.problem(over=W, data=batch, optimizer=sgd, **options)(fn)], parts=2
        )

    def square(w, batch):
        return (w * 2).square().sum()

    uneven = [(X, X[:5])]
    with pytest.raises(mlopt.DataError, match=r"square: its batch holds tensors of 5, 7 .*split="):
        engine(uneven, square).step()
    with pytest.raises(mlopt.DataError, match=r"holds no tensor with a dimension 0.*split="):
        engine([{"a": 1}], square).step()
    with pytest.raises(mlopt.DataError, match=r"returned no part"):
        engine([X], square, split=lambda batch, parts: []).step()
    with pytest.raises(mlopt.DataError, match=r"7 and 5 samples.*count="):
        engine(([X], [X[:5]]), square).step()
    with pytest.raises(mlopt.DataError, match=r"count= returned 'a'"):
        engine([X], square, count=lambda part: "a").step()
    with pytest.raises(mlopt.DataError, match=r"count 0"):
        engine([X], square, count=lambda part: 0).step()
    for wrong in ({"split": "rows"}, {"split": -1}, {"split": True}, {"count": 3}):
        with pytest.raises(mlopt.GraphError, match=f"{next(iter(wrong))}="):
            engine([X], square, **wrong)
    with pytest.raises(mlopt.GraphError, match="combine="):
        engine([X], square, combine="max")
    with pytest.raises(mlopt.GraphError, match="give it data="):
        mlopt.problem(over=W, split=1)(lambda w: w.sum())
    with pytest.raises(mlopt.GraphError, match="parts"):
        mlopt.Engine([mlopt.problem(over=W, data=[X], optimizer=sgd)(square)], parts=0)


@pytest.mark.parametrize("samples", [6, 7])
def test_a_signal_of_fixed_size_has_to_say_how_its_parts_combine(samples):
    """Of six samples in two parts, three values look like three rows."""
    W = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "w")
    x = X[:samples] if samples < 7 else X

    @mlopt.signal(given=[W], data=[x])
    def means(w, batch):
        return (batch * w).mean(0)

    @mlopt.problem(
        over=W, given=[means], data=[x], optimizer=torch.optim.SGD(W.parameters(), lr=0.1)
    )
    def fit(w, means, batch):
        return (means * w).sum() + batch.mean()

    with pytest.raises(mlopt.GraphError, match=r"means: .*row for each sample.*combine="):
        mlopt.Engine([means, fit], parts=2).step()


def test_rows_of_another_loader_have_no_parts_in_common():
    W = mlopt.Variable(torch.ones(3, dtype=F64).requires_grad_(), "w")

    @mlopt.signal(given=[], data=[X])
    def rows(batch):
        return batch.sin()

    def fit(w, rows, batch):
        return (rows.mean(0) * w).square().sum() + batch.mean()

    options = {"over": W, "given": [rows], "optimizer": torch.optim.SGD(W.parameters(), lr=0.1)}
    with pytest.raises(mlopt.DataError, match=r"5 samples, and the value of rows 7 rows"):
        mlopt.Engine([rows, mlopt.problem(data=[X[:5]], **options)(fit)], parts=2).step()
    whole = mlopt.problem(data=[X[:5]], split=False, **options)(fit)
    mlopt.Engine([rows, whole], parts=2).step()
