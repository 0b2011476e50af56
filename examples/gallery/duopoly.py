"""A tax on two competing firms: a leader above a game, whose equilibrium is known.

    q1*, q2*  =  Nash equilibrium of   max over q_i   (price(q1 + q2) - t) q_i - cost_i(q_i)
    min over t   -[ buyers' value(q1* + q2*) - cost_1(q1*) - cost_2(q2*) - damage(q1* + q2*) ]

Price, marginal costs and marginal damage are lines, so the equilibrium (of Cournot) is a linear
system in t, and the best tax (of Stackelberg's leader) one division. The firms are a `mlopt.Game`,
and the regulator differentiates through the steps that they make. They stand at their equilibrium
in the end, whatever the play: what differs is how much of their answer to the tax it sees.

    python examples/gallery/duopoly.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD

import mlopt
from bounded import count
from mlopt.games import Alternating, Extragradient
from mlopt.report import format_table
from resumable import parsed, program, saved


@dataclass(frozen=True)
class Market:
    """price(Q) = a - b Q;  cost_i(q) = c_i q + e_i q^2/2;  damage(Q) = d Q^2/2."""

    a: float = 10.0
    b: float = 1.0
    c: tuple[float, float] = (1.0, 3.0)
    d: float = 1.5
    e: tuple[float, float] = (0.2, 2.0)

    def profit(self, i: int, q: Tensor, other: Tensor, t: Tensor) -> Tensor:
        price = self.a - self.b * (q + other)
        return (price - t) * q - self.c[i] * q - self.e[i] * q**2 / 2

    def welfare(self, q1: Tensor, q2: Tensor) -> Tensor:
        q = q1 + q2
        costs = sum(c * x + e * x**2 / 2 for c, e, x in zip(self.c, self.e, (q1, q2), strict=True))
        return self.a * q - (self.b + self.d) * q**2 / 2 - costs


def equilibrium(m: Market) -> tuple[Tensor, Tensor, Tensor]:
    """M, u and v with M q = a - c - t at the Nash equilibrium q = u - t v."""
    c, e = torch.tensor([m.c, m.e], dtype=torch.float64)
    M = m.b * (1 + torch.eye(2, dtype=torch.float64)) + torch.diag(e)
    return M, torch.linalg.solve(M, m.a - c), torch.linalg.solve(M, torch.ones_like(c))


def best_tax(m: Market, answer: Tensor | None = None) -> tuple[float, Tensor]:
    """The tax where the welfare's slope along dq/dt vanishes, and the firms' quantities there.

    Args:
        m: the market.
        answer: dq/dt; by default that of the equilibrium, -v.
    """
    _, u, v = equilibrium(m)
    s = -v if answer is None else answer
    c, e = torch.tensor([m.c, m.e], dtype=torch.float64)
    H = m.b + m.d + torch.diag(e)  # dW/dq = a - c - H q, along q = u - t v
    t = (s @ (H @ u - m.a + c)) / (s @ H @ v)
    return t.item(), u - t * v


def build(
    m: Market, play: Callable[..., mlopt.AbstractPlay | None], lr: float = 0.2
) -> mlopt.Engine:
    """Two firms and the regulator; `play` makes the play of the two."""
    Q1, Q2, T = (
        mlopt.Variable(nn.Parameter(torch.tensor(x, dtype=torch.float64)), name)
        for x, name in ((1.0, "q1"), (1.0, "q2"), (0.0, "t"))
    )

    @mlopt.problem(over=Q1, given=[Q2, T], optimizer=SGD(Q1.parameters(), lr=lr))
    def firm1(q1, q2, t):
        return -m.profit(0, q1, q2, t)

    @mlopt.problem(over=Q2, given=[Q1, T], optimizer=SGD(Q2.parameters(), lr=lr))
    def firm2(q2, q1, t):
        return -m.profit(1, q2, q1, t)

    @mlopt.problem(over=T, given=[Q1, Q2], optimizer=SGD(T.parameters(), lr=0.5))
    def regulator(t, q1, q2):
        return -m.welfare(q1, q2)

    game = mlopt.Game([firm1, firm2], play(firm1, firm2))
    return mlopt.Engine([game, regulator], hypergrad=mlopt.OneStep())


def solve(engine: mlopt.Engine, steps: int) -> tuple[float, Tensor]:
    """The tax and the quantities after so many steps."""
    engine.run(steps=steps, progress=False, **saved())
    q1, q2, t = (v.tensor.detach() for v in engine.graph.variables)
    return t.item(), torch.stack([q1, q2])


PLAYS: dict[str, Callable[..., mlopt.AbstractPlay | None]] = {
    "Simultaneous(), OneStep()": lambda one, two: None,
    "Extragradient()": lambda one, two: Extragradient(),
    "Alternating, 1 round": lambda one, two: Alternating((one, 1), (two, 1)),
    "Alternating, 5 rounds": lambda one, two: Alternating(*[(one, 1), (two, 1)] * 5),
    "Alternating, 25 rounds": lambda one, two: Alternating(*[(one, 1), (two, 1)] * 25),
}


def make_engine() -> mlopt.Engine:
    """The first that is run, for `--verify-resume`."""
    return build(Market(), PLAYS["Simultaneous(), OneStep()"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=count, default=250)
    steps = parsed(parser, make_engine).steps
    m = Market()
    tax, quantities = best_tax(m)
    best = m.welfare(*quantities).item()
    rows = []
    for name, play in PLAYS.items():
        t, q = solve(build(m, play), steps)
        rows.append(
            {
                "play": name,
                "tax": f"{t:.5f}",
                "error": f"{abs(t - tax):.1e}",
                "q1": f"{q[0].item():.4f}",
                "q2": f"{q[1].item():.4f}",
                "welfare lost": f"{best - m.welfare(*q).item():.1e}",
            }
        )
    print(f"closed form: tax {tax:.5f}, q1 {quantities[0]:.4f}, q2 {quantities[1]:.4f}\n")
    print(format_table(rows))


if __name__ == "__main__":
    program(main)
