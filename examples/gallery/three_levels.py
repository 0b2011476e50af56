"""Three nested levels of which everything is known: each method's hypergradient and its error.

    min over x  |y - a|^2/2 + |z - b|^2/2 + |x|^2/10      at y = y*(x),  z = z*(y, x)
    y*(x)    =  argmin over y  |y - x|^2/2 + |z*(y, x) - c|^2/2
    z*(y, x) =  argmin over z  z.P z/2 - z.(B y + C x)

The middle problem steers the bottom one: when y moves, z follows, so z* enters the objective of y.
All is quadratic, and the closed form is four lines of algebra. Both lower levels stand at their
optima; what the table shows is therefore the error of the derivative alone.

    python examples/gallery/three_levels.py
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD

import mlopt
from bounded import count, seed
from mlopt.report import format_table
from resumable import parsed, program


@dataclass(frozen=True)
class Constants:
    """The matrices and targets; P is symmetric, its eigenvalues between 0.5 and 2."""

    P: Tensor
    B: Tensor
    C: Tensor
    a: Tensor
    b: Tensor
    c: Tensor
    x: Tensor

    @staticmethod
    def draw(size: int = 5, seed: int = 0) -> Constants:
        g = torch.Generator().manual_seed(seed)
        basis, _ = torch.linalg.qr(torch.randn(size, size, generator=g, dtype=torch.float64))
        P = basis @ torch.diag(torch.linspace(0.5, 2, size, dtype=torch.float64)) @ basis.T
        B, C = torch.randn(2, size, size, generator=g, dtype=torch.float64) / (4 * size) ** 0.5
        a, b, c, x = torch.randn(4, size, generator=g, dtype=torch.float64)
        return Constants((P + P.T) / 2, B, C, a, b, c, x)


def closed_form(k: Constants) -> tuple[Tensor, Tensor, Tensor]:
    """y*(x), z*(y*(x), x), and the derivative of the top objective by x."""
    one = torch.eye(len(k.x), dtype=k.x.dtype)
    M, N = torch.linalg.solve(k.P, k.B), torch.linalg.solve(k.P, k.C)  # z* = M y + N x
    # (y - x) + M'(M y + N x - c) = 0
    S = torch.linalg.solve(one + M.T @ M, one - M.T @ N)  # dy*/dx
    y = S @ k.x + torch.linalg.solve(one + M.T @ M, M.T @ k.c)
    z = M @ y + N @ k.x
    return y, z, S.T @ (y - k.a) + (M @ S + N).T @ (z - k.b) + k.x / 5


def build(k: Constants, method: mlopt.AbstractHypergradient, lr: float = 0.3) -> mlopt.Engine:
    """The three levels at x, both lower ones at their optima; the last problem is the top."""
    y_star, z_star, _ = closed_form(k)
    X = mlopt.Variable(nn.Parameter(k.x.clone()), "x")
    Y = mlopt.Variable(nn.Parameter(y_star), "y")
    Z = mlopt.Variable(nn.Parameter(z_star), "z")

    @mlopt.problem(over=Z, given=[Y, X], optimizer=SGD(Z.parameters(), lr=lr), hypergrad=method)
    def bottom(z, y, x):
        return z @ k.P @ z / 2 - z @ (k.B @ y + k.C @ x)

    @mlopt.problem(over=Y, given=[Z, X], optimizer=SGD(Y.parameters(), lr=lr), hypergrad=method)
    def middle(y, z, x):
        return ((y - x) ** 2).sum() / 2 + ((z - k.c) ** 2).sum() / 2

    @mlopt.problem(over=X, given=[Y, Z])
    def top(x, y, z):
        return ((y - k.a) ** 2 + (z - k.b) ** 2).sum() / 2 + (x**2).sum() / 10

    return mlopt.Engine([bottom, middle, top])


def hypergradient(engine: mlopt.Engine) -> Tensor:
    """That of the top problem."""
    ((found,),) = (tensors.values() for tensors in engine.hypergradient(top_of(engine)).values())
    return found


def top_of(engine: mlopt.Engine) -> mlopt.Problem:
    return engine.graph.problems[-1]


METHODS: dict[str, mlopt.AbstractHypergradient] = {
    "Implicit(CG)": mlopt.Implicit(mlopt.CG(max_steps=20, tol=1e-12)),
    "Implicit(Neumann, 10 terms)": mlopt.Implicit(mlopt.Neumann(10)),
    "Unrolled(30)": mlopt.Unrolled(30),
    "Unrolled(5)": mlopt.Unrolled(5),
    "OneStep()": mlopt.OneStep(),
    "Frozen()": mlopt.Frozen(),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=count, default=5, help="numbers in each of x, y and z")
    parser.add_argument("--seed", type=seed, default=0)
    given = parsed(parser)
    k = Constants.draw(given.size, given.seed)
    expected = closed_form(k)[2]
    rows = []
    for name, method in METHODS.items():
        found = hypergradient(build(k, method))
        rows.append(
            {
                "method": name,
                "relative error": f"{((found - expected).norm() / expected.norm()).item():.1e}",
                "cosine": f"{torch.cosine_similarity(found, expected, dim=0).item():.4f}",
            }
        )
    print(build(k, mlopt.Implicit()).graph, end="\n\n")
    print(format_table(rows))


if __name__ == "__main__":
    program(main)
