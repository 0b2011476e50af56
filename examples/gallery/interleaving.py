"""Interleaving learning, four levels deep: three learners in a chain, and what all of them see.

    W1*, H1* = argmin  L(A, W1, H1, D1)                              the first learner
    Wk*, Hk* = argmin  L(A, Wk, Hk, Dk) + lambda |Wk - Wk-1*|^2      each later one, k = 2, 3
    min over A         sum over k of  L(A, Wk*, Hk*, Vk)             the architecture

The learners have an encoder Wk and a head Hk each, training images Dk and validation images Vk. An
encoder is drawn to the one before it in the chain; with several rounds the chain goes through all
tasks again, and the last round counts. A picture is a row of five digits of scikit-learn, and the
third is asked for: its name, whether it is odd, whether it has a closed loop; only the first task
has more than a few images. A says how much of each of the five an encoder sees. So the right answer
is known, to us, and the search has to find it.

    python examples/gallery/interleaving.py

Reference: Ban, Xie, "Interleaving learning, with application to neural architecture search", 2021,
arXiv 2103.07018. There A is the cell of a network.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

import mlopt
from bounded import amount, count
from mlopt.data import load
from mlopt.report import format_table
from resumable import parsed, program, saved

Rows = tuple[Tensor, Tensor]

#: Pictures in a row, and the one that is asked for.
PICTURES, ASKED = 5, 2
#: The strength lambda of the pull towards the encoder before.
PULL = 0.1
#: Of all weights of the learners. With 1e-3 some searches go astray: see docs/gallery.
DECAY = 2e-2


@dataclass(frozen=True)
class Task:
    """Rows of pictures (count, pictures, pixels) and their labels."""

    classes: int
    train: Rows
    valid: Rows
    test: Rows


@dataclass(frozen=True)
class Learner:
    """The encoder and the head of one learner in one round."""

    w: mlopt.Variable
    h: mlopt.Variable

    def sgd(self) -> SGD:
        parameters = [*self.w.parameters(), *self.h.parameters()]
        return SGD(parameters, lr=0.1, momentum=0.9, weight_decay=DECAY)


# The equations.


def seen(a: Tensor, x: Tensor) -> Tensor:
    """What an encoder sees: the pictures, weighted by a mixture that is all ones at a = 0."""
    return (len(a) * a.softmax(0)[:, None] * x).flatten(1)


def loss(a: Tensor, w: nn.Module, h: nn.Module, rows: Rows) -> Tensor:
    """L(A, W, H, D)."""
    x, y = rows
    return cross_entropy(h(w(seen(a, x))), y)


def distance(w: nn.Module, before: nn.Module) -> Tensor:
    """|W - W'|^2."""
    pairs = zip(w.parameters(), before.parameters(), strict=True)
    return torch.stack([((p - q) ** 2).sum() for p, q in pairs]).sum()


def first(one: Learner, A: Any, rows: Rows, **options: Any) -> mlopt.Problem:
    @mlopt.problem(over=[one.w, one.h], given=[A], data=[rows], optimizer=one.sgd(), **options)
    def learner(own, a, batch):
        w, h = own
        return loss(a, w, h, batch)

    return learner


def later(
    one: Learner, before: Any, A: Any, rows: Rows, pull: float = PULL, **options: Any
) -> mlopt.Problem:
    @mlopt.problem(
        over=[one.w, one.h], given=[before, A], data=[rows], optimizer=one.sgd(), **options
    )
    def learner(own, before, a, batch):
        w, h = own
        return loss(a, w, h, batch) + pull * distance(w, before)

    return learner


def architecture(
    A: mlopt.Variable, ws: list[Any], hs: list[Any], valid: Sequence[Rows], **options: Any
) -> mlopt.Problem:
    @mlopt.problem(
        over=A, given=[ws, hs], data=tuple([rows] for rows in valid),
        optimizer=Adam(A.parameters(), lr=0.02), **options,
    )  # fmt: skip
    def validation(a, ws, hs, batches):
        return sum(loss(a, w, h, rows) for w, h, rows in zip(ws, hs, batches, strict=True))

    return validation


# The chain.


def make_learner(task: Task, name: str, hidden: int, seed: int) -> Learner:
    """All encoders begin as the same one: it is what the learners hand on."""
    x, _ = task.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        w = nn.Sequential(nn.Linear(x[0].numel(), hidden), nn.Tanh()).to(x)
        h = nn.Linear(hidden, task.classes).to(x)
    return Learner(mlopt.Variable(w, f"w{name}"), mlopt.Variable(h, f"h{name}"))


def build(
    tasks: Sequence[Task],
    a: nn.Parameter,
    *,
    pull: float = PULL,
    rounds: int = 1,
    hidden: int = 32,
    seed: int = 0,
    hypergrad: mlopt.AbstractHypergradient | None = None,
    start: int = 0,
) -> tuple[mlopt.Engine, list[Learner]]:
    """The engine, and the learners of the last round; A waits until the epoch `start`."""
    A = mlopt.Variable(a, "a")
    nodes: list[mlopt.Problem] = []
    learners: list[Learner] = []
    for m in range(rounds):
        for k, task in enumerate(tasks):
            name = f"{k + 1}" + "'" * m
            one = make_learner(task, name, hidden, seed)
            if pull and learners:
                before = learners[-1].w
                stage = later(one, before, A, task.train, pull, name=f"learner{name}")
            else:
                stage = first(one, A, task.train, name=f"learner{name}")
            nodes.append(stage)
            learners.append(one)
    last = learners[-len(tasks) :]
    valid = [task.valid for task in tasks]
    top = architecture(A, [one.w for one in last], [one.h for one in last], valid, start=start)
    engine = mlopt.Engine([*nodes, top], hypergrad=hypergrad or mlopt.OneStep(), seed=seed)
    return engine, last


def search(tasks: Sequence[Task], steps: int, **options: Any) -> Tensor:
    """A after a search that begins with all pictures alike."""
    a = nn.Parameter(tasks[0].train[0].new_zeros(PICTURES))
    engine, _ = build(tasks, a, **options)
    engine.run(epochs=steps, progress=False, **saved())
    return a.detach()


def derive(a: Tensor) -> Tensor:
    """The picture with the greatest weight, alone."""
    return only(int(a.argmax()))


def only(picture: int) -> Tensor:
    a = torch.full((PICTURES,), -torch.inf)
    a[picture] = 0.0
    return a


def both(one: Rows, other: Rows) -> Rows:
    return torch.cat([one[0], other[0]]), torch.cat([one[1], other[1]])


def train(tasks: Sequence[Task], a: Tensor, steps: int, **options: Any) -> list[Learner]:
    """Learners from scratch, with A as it is, on training and validation images."""
    whole = [replace(t, train=both(t.train, t.valid)) for t in tasks]
    engine, learners = build(whole, nn.Parameter(a.clone()), start=steps, **options)
    engine.run(epochs=steps, progress=False, **saved())
    return learners


# The tasks.

LOOP = torch.tensor([1, 0, 0, 0, 0, 0, 1, 0, 1, 1])  # of the digits 0 to 9
#: The labels, and the numbers of training and validation images.
QUESTIONS: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "name": (lambda digit: digit, 150, 100),
    "odd": (lambda digit: digit % 2, 30, 30),
    "loop": (lambda digit: LOOP[digit], 30, 30),
}


def make_tasks(seed: int = 0) -> list[Task]:
    """Which digit is it? Is it odd? Has it a loop? The tasks share no training image."""
    digits = load("digits")
    g = torch.Generator().manual_seed(seed)

    def in_rows(images: Tensor) -> Tensor:
        """Each image among four others of the same part."""
        others = [images[torch.randperm(len(images), generator=g)] for _ in range(PICTURES - 1)]
        return torch.stack([*others[:ASKED], images, *others[ASKED:]], 1).flatten(2) / 16

    order = torch.randperm(len(digits.train_images), generator=g)
    test, tasks = in_rows(digits.test_images), []
    for question, *sizes in QUESTIONS.values():
        train, valid, order = order.split([*sizes, len(order) - sum(sizes)])
        tasks.append(
            Task(
                classes=int(question(torch.arange(10)).max()) + 1,
                train=(in_rows(digits.train_images[train]), question(digits.train_labels[train])),
                valid=(in_rows(digits.train_images[valid]), question(digits.train_labels[valid])),
                test=(test, question(digits.test_labels)),
            )
        )
    return tasks


@torch.no_grad()
def accuracy(a: Tensor, one: Learner, rows: Rows) -> float:
    """In per cent."""
    x, y = rows
    return 100 * (one.h(one.w(seen(a, x))).argmax(1) == y).double().mean().item()


def make_engine() -> mlopt.Engine:
    """The first that is run, for `--verify-resume`."""
    tasks = make_tasks()
    return build(tasks, nn.Parameter(tasks[0].train[0].new_zeros(PICTURES)))[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=count, default=5)
    parser.add_argument(
        "--steps", type=count, default=150, help="of the search and of the training"
    )
    parser.add_argument(
        "--rounds", type=count, default=1, help="how often the chain is gone through"
    )
    parser.add_argument("--pull", type=amount, default=PULL, help="lambda")
    parser.add_argument("--first-order", action="store_true", help="A sees no learner respond")
    given = parsed(parser, make_engine)
    method = mlopt.Frozen() if given.first_order else mlopt.OneStep()
    found: dict[str, list[list[float]]] = {}
    right: dict[str, int] = {}
    for seed in range(given.seeds):
        tasks = make_tasks(seed)
        chain = {"seed": seed, "rounds": given.rounds, "pull": given.pull}
        alone = {"seed": seed, "pull": 0.0}
        every, asked = torch.zeros(PICTURES), only(ASKED)
        by_chain = search(tasks, given.steps, hypergrad=method, **chain)
        by_alone = search(tasks, given.steps, hypergrad=method, **alone)
        for name, a, options in (
            ("all pictures, each alone", every, alone),
            ("all pictures, interleaved", every, chain),
            ("A searched, each alone", derive(by_alone), alone),
            ("A searched, interleaved", derive(by_chain), chain),
            ("the right picture, interleaved", asked, chain),
        ):
            learners = train(tasks, a, given.steps, **options)
            scores = [accuracy(a, one, t.test) for one, t in zip(learners, tasks, strict=True)]
            found.setdefault(name, []).append(scores)
            right[name] = right.get(name, 0) + torch.equal(a, asked)
        for name, a in {"each alone": by_alone, "interleaved": by_chain}.items():
            weights = "  ".join(f"{p:.2f}" for p in a.softmax(0))
            print(f"seed {seed}, the pictures' weights, {name}: {weights}")
    rows = []
    for name, scores in found.items():
        means = [mean(s) for s in scores]
        tasks = zip(QUESTIONS, zip(*scores, strict=True), strict=True)
        each = {question: f"{mean(s):.1f} %" for question, s in tasks}
        rows.append(
            {
                "learning": name,
                **each,
                "mean": f"{mean(means):.1f} %",
                "deviation": f"{stdev(means):.1f}" if len(means) > 1 else None,
                "picture found": f"{right[name]} of {given.seeds}" if "searched" in name else None,
            }
        )
    print(format_table(rows))


if __name__ == "__main__":
    program(main)
