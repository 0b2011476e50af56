"""The audit of complex variables and signals: pairs of real numbers, to all oracles."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from audit.audited import only, right
from small import sgd
from torch import Tensor, nn

import mlopt
from mlopt import Audit, Implicit, OneStep, Sama, Unrolled, audit

F64, C128 = torch.float64, torch.complex128


class _Halved(torch.autograd.Function):
    """z, with half of its gradient in the imaginary part."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        del ctx
        return z.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        (g,) = grads
        return torch.complex(g.real, g.imag / 2)


def audited(method: Any, through: str, bent: bool = False, dtype: torch.dtype = C128) -> Audit:
    """A lower problem over three real numbers and two complex ones, which reads complex ones."""
    start = [nn.Parameter(torch.tensor([0.5, -0.3, 0.2], dtype=dtype.to_real())),
             nn.Parameter(torch.tensor([0.1j, 0.3 - 0.2j], dtype=dtype))]  # fmt: skip
    w = nn.ParameterList(start)
    r = nn.Parameter(torch.tensor([0.1 + 0.2j, 0.2 - 0.1j, 0.3], dtype=dtype))
    W, R = mlopt.Variable(w, "w"), mlopt.Variable(r, "r")
    z = mlopt.signal(given=[R])(lambda r: torch.fft.fft(r))

    @mlopt.problem(over=W, given=[z if through == "signal" else R], optimizer=sgd(W, 0.2))
    def lower(w, z):
        z = _Halved.apply(z) if bent else z
        near = (w[0] - z).abs().square().sum() + (w[1] - z[:2] * w[0][:2]).abs().square().sum()
        return near + 0.1 * (w[0] * z).abs().square().sum() + (w[0] * z.imag).sum()

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R, 0.1))
    def upper(r, w):
        return (w[0] - 1).square().sum() + (w[1] * r[:2]).imag.sum() + r.abs().square().sum()

    lower.hypergrad = method
    nodes = [z, lower, upper] if through == "signal" else [lower, upper]
    engine = mlopt.Engine(nodes, schedule=mlopt.Alternate((lower, 1), (upper, 1)))
    if isinstance(method, Implicit):
        for _ in range(400):
            engine.step()
            with torch.no_grad():
                r.copy_(torch.tensor([0.1 + 0.2j, 0.2 - 0.1j, 0.3], dtype=dtype))
    return audit(engine)


@pytest.mark.parametrize("through", ["variable", "signal"])
@pytest.mark.parametrize(
    "method",
    [
        OneStep(), OneStep(product=mlopt.Central()), Unrolled(2), Sama(),
        Implicit(mlopt.CG(max_steps=40, tol=1e-12)), Implicit(mlopt.Dense()),
    ],
    ids=str,
)  # fmt: skip
def test_right_edges_of_complex_numbers(method: Any, through: str) -> None:
    report = audited(method, through)
    (edge,) = only(report, "edge")
    assert edge.error is not None
    right(report.worst, 1e-6)
    assert not report.causes


def test_complex_numbers_in_float32_are_audited_in_float64() -> None:
    report = audited(OneStep(), "variable", dtype=torch.complex64)
    assert report.precision == "float64"
    right(report.worst)
    assert report.rounding > 0


@pytest.mark.parametrize("through", ["variable", "signal"])
def test_wrong_gradients_by_complex_numbers_are_found(through: str) -> None:
    report = audited(OneStep(), through, bent=True)
    assert any(c.kind == "backward" and "_Halved" in c.text for c in report.causes)
    assert report.worst > 1e-2


def test_adam_of_complex_numbers() -> None:
    """Its look-ahead, by the audit's own definition of it."""
    w = nn.Parameter(torch.tensor([0.5 - 0.2j, 0.3j], dtype=C128))
    r = nn.Parameter(torch.tensor([0.3, 0.4], dtype=F64))
    W, R = mlopt.Variable(w, "w"), mlopt.Variable(r, "r")

    @mlopt.problem(
        over=W, given=[R], optimizer=torch.optim.Adam([w], lr=0.1, weight_decay=0.1),
        hypergrad=OneStep(),
    )  # fmt: skip
    def lower(w, r):
        return (w * r.exp() - (1 + 2j)).abs().square().sum()

    @mlopt.problem(over=R, given=[W], optimizer=sgd(R, 0.1))
    def upper(r, w):
        return (w - r).abs().square().sum()

    engine = mlopt.Engine([lower, upper])
    right(audit(engine).worst)
    engine.run(steps=2, progress=False)
    right(audit(engine).worst)
