"""Two small bilevel problems whose hypergradients are known, for error against cost.

    w*(r) = argmin_w F(w, r; train),    hypergradient = d/dr U(w*(r), r; val)

Both are float64, on the CPU, and the same for the same seed. The lower variables are one flat
vector w: every library then works on the same tensors.

`Problem.w` is the point at which a method is asked for its hypergradient. As built it is the lower
optimum (gradient below 1e-10). `problem.start()` is the same problem at the optimum of an earlier
r, which is where a warm-started loop finds itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from mlopt.hypergrad import derivatives as _derivatives

Batch = tuple[Tensor, Tensor]
Objective = Callable[[Tensor, Tensor, Batch], Tensor]
Solve = Callable[[Tensor, Tensor], Tensor]

__all__ = [
    "Counts", "Problem", "conjugate_gradient", "counted", "damped", "identity", "minimum",
    "network", "neumann", "penalised_minimum", "penalised_truth", "smooth", "unrolled_truth",
]  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """A bilevel problem and a point (w, r) of it."""

    name: str
    lower: Objective
    upper: Objective
    train: Batch
    val: Batch
    w: Tensor
    r: Tensor
    warm: Tensor

    def start(self) -> Problem:
        """The same problem at the optimum of an earlier r: a point that is not optimal."""
        return dataclasses.replace(self, w=self.warm)

    def to(self, device: str) -> Problem:
        """The same problem on another device."""
        (x, y), (u, v) = self.train, self.val
        return dataclasses.replace(
            self,
            train=(x.to(device), y.to(device)),
            val=(u.to(device), v.to(device)),
            w=self.w.to(device),
            r=self.r.to(device),
            warm=self.warm.to(device),
        )

    def hessian(self) -> Tensor:
        """d2F/dw2 at the point, dense."""
        return _hessian(lambda w: self.lower(w, self.r, self.train), self.w)

    def curvature(self) -> tuple[float, float]:
        """The smallest and the largest eigenvalue of the Hessian at the point."""
        values = torch.linalg.eigvalsh(self.hessian())
        return values[0].item(), values[-1].item()

    def dense_hypergradient(self, solve: Solve = torch.linalg.solve) -> Tensor:
        """dU/dr - < d2F/drdw , H^-1 dU/dw > at the point, from the dense Hessian H.

        The truth at the lower optimum. Another `solve(H, b)` gives what a method that replaces H^-1
        should answer in exact arithmetic: `identity`, `neumann(...)`, `conjugate_gradient(...)`.
        """
        w, r = _leaf(self.w), _leaf(self.r)
        value = self.upper(w, r, self.val)
        to_w, to_r = torch.autograd.grad(value, [w, r], materialize_grads=True, allow_unused=True)
        direction = solve(self.hessian(), to_w)
        (slope,) = torch.autograd.grad(self.lower(w, r, self.train), w, create_graph=True)
        (mixed,) = torch.autograd.grad(slope, r, direction)
        return to_r - mixed


def identity(hessian: Tensor, vector: Tensor) -> Tensor:
    """No inverse at all: the one-step methods (DARTS) at learning rate 1."""
    return vector


def neumann(terms: int, alpha: float) -> Solve:
    """alpha * sum over i < terms of (1 - alpha H)^i, applied to b."""

    def solve(hessian: Tensor, vector: Tensor) -> Tensor:
        total = term = vector
        for _ in range(terms - 1):
            term = term - alpha * (hessian @ term)
            total = total + term
        return alpha * total

    return solve


def conjugate_gradient(iterations: int) -> Solve:
    """So many textbook iterations from zero.

    Rounding makes any two runs part: on `network` they agree to 1e-13 after 10 iterations and to
    1e-3 after 20, until both converge.
    """

    def solve(hessian: Tensor, vector: Tensor) -> Tensor:
        x, residual, direction = torch.zeros_like(vector), vector, vector
        for _ in range(iterations):
            square = residual @ residual
            if square.sqrt() <= 1e-15 * vector.norm():
                break
            image = hessian @ direction
            length = square / (direction @ image)
            x, residual = x + length * direction, residual - length * image
            direction = residual + (residual @ residual) / square * direction
        return x

    return solve


def damped(damping: float, solve: Solve) -> Solve:
    """The same, with so much added to the diagonal of H."""
    return lambda hessian, vector: solve(
        hessian + damping * torch.eye(len(vector)).to(vector), vector
    )


def unrolled_truth(
    problem: Problem,
    w0: Tensor,
    steps: int,
    lr: float,
    optimizer: str = "sgd",
    truncate: int | None = None,
) -> Tensor:
    """d/dr U(w_K(r), r): the K steps from w0 differentiated, or the last few, by plain autograd.

    The optimizer is "sgd", "adam" (that of torch.optim), or "adam raw eps", which adds its eps to
    the square root before the bias correction, as torch.optim did once.
    """
    r, w = _leaf(problem.r), _leaf(w0)
    mean, square = torch.zeros_like(w), torch.zeros_like(w)
    for step in range(1, steps + 1):
        if truncate is not None and step == steps - truncate + 1:
            w, mean, square = _leaf(w), mean.detach(), square.detach()
        (g,) = torch.autograd.grad(problem.lower(w, r, problem.train), w, create_graph=True)
        if optimizer == "sgd":
            w = w - lr * g
            continue
        mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g**2
        root = (1 - 0.999**step) ** 0.5
        eps = 1e-8 / root if optimizer == "adam raw eps" else 1e-8
        w = w - lr * mean / (1 - 0.9**step) / (square.sqrt() / root + eps)
    return torch.autograd.grad(problem.upper(w, r, problem.val), r)[0]


def penalised_truth(problem: Problem, weight: float) -> Tensor:
    """d/dr of  min_y [U(y, r) + weight F(y, r)] - weight min_z F(z, r),  where w is the best z."""
    y, r = penalised_minimum(problem, weight), _leaf(problem.r)
    gap = problem.lower(y, r, problem.train) - problem.lower(problem.w, r, problem.train)
    return torch.autograd.grad(problem.upper(y, r, problem.val) + weight * gap, r)[0]


def penalised_minimum(problem: Problem, weight: float) -> Tensor:
    """argmin over y of F(y, r) + U(y, r) / weight, near w."""

    def function(y: Tensor) -> Tensor:
        below = problem.lower(y, problem.r, problem.train)
        return below + problem.upper(y, problem.r, problem.val) / weight

    return minimum(function, problem.w)


@dataclass
class Counts:
    """What one call did: evaluations of the lower objective, and backward passes of any kind."""

    forwards: int = 0
    backwards: int = 0


@contextmanager
def counted(problem: Problem) -> Iterator[tuple[Problem, Counts]]:
    """The problem with a counter in its lower objective; backward passes are counted inside."""
    counts, grad, backward = Counts(), torch.autograd.grad, torch.autograd.backward

    def lower(w: Tensor, r: Tensor, batch: Batch) -> Tensor:
        counts.forwards += 1
        return problem.lower(w, r, batch)

    def counting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts.backwards += 1
            return function(*args, **kwargs)

        return call

    torch.autograd.grad, torch.autograd.backward = counting(grad), counting(backward)
    found = _derivatives._engine
    if (direct := found()) is not None:  # mlopt calls this in place of torch.autograd.grad
        _derivatives._engine = lambda: counting(direct)
    try:
        yield dataclasses.replace(problem, lower=lower), counts
    finally:
        torch.autograd.grad, torch.autograd.backward = grad, backward
        _derivatives._engine = found


def smooth(seed: int = 0, features: int = 200, samples: int = 300) -> Problem:
    """Logistic regression with a penalty softplus(r_i) w_i^2 / 2 of its own for each feature.

    The features' scales run from 0.3 to 3: some directions are stiff and others are held by the
    penalty alone.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    scales = torch.logspace(-0.5, 0.5, features, dtype=torch.float64)
    true = draw(features) / features**0.5

    def data(count: int) -> Batch:
        x = draw(count, features) * scales
        return x, (x @ true + draw(count) > 0).to(x)

    def lower(w: Tensor, r: Tensor, batch: Batch) -> Tensor:
        x, y = batch
        penalty = 0.5 * (softplus(r) * w**2).sum()
        return binary_cross_entropy_with_logits(x @ w, y) + penalty

    def upper(w: Tensor, r: Tensor, batch: Batch) -> Tensor:
        return binary_cross_entropy_with_logits(batch[0] @ w, batch[1])

    train, val = data(samples), data(samples)
    r = 0.5 * draw(features) - 3.5
    return _solved("smooth", lower, upper, train, val, torch.zeros_like(r), r, draw(features))


def network(seed: int = 0, samples: int = 40) -> Problem:
    """A tanh network of 397 parameters, and one weight sigmoid(r_i) for each training sample.

    A third of the training labels are flipped. The upper objective also has a small term of r
    itself, so that a method which forgets dU/dr shows.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = (8, 16, 14, 1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def data(count: int) -> Batch:
        x = draw(count, sizes[0])
        return x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).to(x)

    def logits(w: Tensor, x: Tensor) -> Tensor:
        start = 0
        for i, (fan_in, fan_out) in enumerate(zip(sizes, sizes[1:], strict=False)):
            end = start + fan_in * fan_out
            x = x @ w[start:end].view(fan_in, fan_out) + w[end : end + fan_out]
            x, start = x.tanh() if i < len(sizes) - 2 else x, end + fan_out
        return x.squeeze(-1)

    def lower(w: Tensor, r: Tensor, batch: Batch) -> Tensor:
        losses = binary_cross_entropy_with_logits(logits(w, batch[0]), batch[1], reduction="none")
        return (r.sigmoid() * losses).mean() + 0.5 * 0.01 * (w**2).sum()

    def upper(w: Tensor, r: Tensor, batch: Batch) -> Tensor:
        return (
            binary_cross_entropy_with_logits(logits(w, batch[0]), batch[1])
            + 1e-3 * r.square().mean()
        )

    (x, y), val = data(samples), data(2 * samples)
    y = torch.where(torch.arange(samples) % 3 == 0, 1 - y, y)
    count = sum((a + 1) * b for a, b in zip(sizes, sizes[1:], strict=False))
    w, r = 0.3 * draw(count), 0.5 * draw(samples)
    return _solved("network", lower, upper, (x, y), val, w, r, draw(samples))


def _solved(
    name: str, lower: Objective, upper: Objective, train: Batch, val: Batch, w: Tensor, r: Tensor,
    step: Tensor,
) -> Problem:  # fmt: skip
    """The problem at its lower optimum, with the optimum of an earlier r as the warm point."""
    warm = minimum(lambda v: lower(v, r - 0.1 * step, train), w)
    return Problem(
        name, lower, upper, train, val, minimum(lambda v: lower(v, r, train), warm), r, warm
    )


def minimum(function: Callable[[Tensor], Tensor], w: Tensor, tolerance: float = 1e-12) -> Tensor:
    """Newton, with as much damping as it takes to go down; the minimum must be a strict one."""
    damping = 1.0
    for _ in range(500):
        x = _leaf(w)
        value = function(x)
        (slope,) = torch.autograd.grad(value, x)
        hessian = _hessian(function, w)
        values, vectors = torch.linalg.eigh(hessian)
        lowest = values[0].item()
        if slope.norm() <= tolerance and lowest > 0:
            break
        if slope.norm() <= 1e-6 and lowest < 0:  # a saddle: both ways along this vector go down
            w, damping = w + 0.1 * vectors[:, 0], 1.0
            continue
        shift = damping + max(0.0, -1.5 * lowest)
        trial = w - torch.linalg.solve(hessian + shift * torch.eye(len(w)).to(w), slope)
        # Close to the minimum the values agree to rounding, so the slope decides there.
        better = function(trial) < value or (
            lowest > 0 and _slope(function, trial) < 0.5 * slope.norm()
        )
        w, damping = (trial, max(damping / 10, 1e-15)) if better else (w, 10 * damping)
    slope_norm, lowest = _slope(function, w), torch.linalg.eigvalsh(_hessian(function, w))[0]
    if slope_norm > 100 * tolerance or lowest <= 0:
        raise RuntimeError(f"no strict minimum: gradient {slope_norm:.1e}, curvature {lowest:.1e}")
    return w


def _slope(function: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    x = _leaf(w)
    return torch.autograd.grad(function(x), x)[0].norm()


def _hessian(function: Callable[[Tensor], Tensor], w: Tensor) -> Tensor:
    return torch.autograd.functional.hessian(function, w.detach(), vectorize=True)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_()
