"""SGL on DARTS: small-group learning.

K learners, each with an architecture A_k, learn together. Each first learns alone (weights V_k) and
labels images that have no labels; each then learns again (weights W_k), from labelled images and
from the pseudo-labels of the others; all architectures are judged by the validation losses of W_k.

    python examples/sgl_darts.py                         # two learners, digits
    python examples/sgl_darts.py --learners 3 --order first --retrain all
    python examples/sgl_darts.py --preset paper --dataset cifar10 --data-root data --device cuda
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import Search, adam, hypergradient_method, main, sgd
from settings import Settings
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.data import ImageData
from mlopt.nas import Architecture, Supernet


@dataclass
class Networks:
    """A learner's architecture and two networks; a network is called as w(x, a())."""

    a: Architecture
    v: Supernet
    w: Supernet


def sgl(learners: list[Networks], train, valid, unlabeled, s: Settings) -> mlopt.Engine:
    """The graph of the paper; `unlabeled` gives images alone."""
    A = [mlopt.Variable(nets.a, f"a{k}") for k, nets in enumerate(learners, start=1)]
    V = [mlopt.Variable(nets.v, f"v{k}") for k, nets in enumerate(learners, start=1)]
    W = [mlopt.Variable(nets.w, f"w{k}") for k, nets in enumerate(learners, start=1)]
    everyone = range(len(learners))

    def learner(k: int) -> tuple[mlopt.Problem, mlopt.Signal]:
        name = f"learner_{k + 1}"

        @mlopt.problem(
            over=V[k], given=[A[k]], data=train, clip=s.clip, name=f"{name}/stage1", **sgd(V[k], s)
        )
        def stage1(v, a, batch):  # Eq. 1
            x, y = batch
            return cross_entropy(v(x, a()), y)

        @mlopt.signal(given=[V[k], A[k]], data=unlabeled, name=f"{name}/pseudo_labels")
        def pseudo_labels(v, a, u):  # f(D_u; V_k*, A_k) in Eq. 2
            return v(u, a()).softmax(-1)

        return stage1, pseudo_labels

    stage1, pseudo_labels = zip(*(learner(k) for k in everyone), strict=True)

    def group(k: int) -> mlopt.Problem:
        @mlopt.problem(
            over=W[k],
            given=[A[k], [pseudo_labels[j] for j in everyone if j != k]],
            data=(train, unlabeled),
            clip=s.clip,
            start=s.pretrain,
            name=f"learner_{k + 1}/stage2",
            **sgd(W[k], s),
        )
        def stage2(w, a, teachers, batch):  # Eq. 2
            (x, y), u = batch
            weights = a()
            answers = w(u, weights)
            taught = sum(cross_entropy(answers, labels) for labels in teachers)
            return cross_entropy(w(x, weights), y) + s.lambda_ * taught

        return stage2

    @mlopt.problem(over=A, given=[W], data=valid, start=s.pretrain + s.warmup, optimizer=adam(A, s))
    def stage3(a, w, batch):  # Eq. 3
        x, y = batch
        return sum(cross_entropy(w[k](x, a[k]()), y) for k in everyone)

    return mlopt.Engine(
        [*stage1, *pseudo_labels, *(group(k) for k in everyone), stage3],
        hypergrad=hypergradient_method(s),
        schedule=mlopt.Sequential() if s.order == "first" else None,
        device=s.device,
        seed=s.seed,
    )


def scheme(data: ImageData, train, valid, unlabeled, s: Settings) -> Search:
    """The networks, each with initial weights of its own, and the graph, ready to run."""

    def supernet() -> Supernet:
        net = Supernet(s.channels, s.cells, data.classes, s.nodes, data.channels)
        return net.to(s.device)

    learners = [
        Networks(Architecture(s.nodes).to(s.device), supernet(), supernet())
        for _ in range(s.learners)
    ]
    return Search(
        engine=sgl(learners, train, valid, unlabeled, s),
        architecture=[nets.a for nets in learners],
        classifier=[nets.w for nets in learners],
        networks=[net for nets in learners for net in (nets.v, nets.w)],
        epochs=s.pretrain + s.epochs,
    )


if __name__ == "__main__":
    main("sgl_darts", scheme, __doc__, unlabeled=True)
