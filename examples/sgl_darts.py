"""SGL: small-group learning, in any search space.

K learners, each with an architecture A_k, learn together. Each first learns alone (weights V_k) and
labels images that have no labels; each then learns again (weights W_k), from labelled images and
from the pseudo-labels of the others; all architectures are judged by the validation losses of W_k.

    python examples/sgl_darts.py                         # two learners, digits
    python examples/sgl_darts.py --learners 3 --order first --retrain all
    python examples/sgl_darts.py --space darts-minus
    python examples/sgl_darts.py --preset paper --dataset cifar10 --data-root data --device cuda
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.nn.functional import cross_entropy

import darts
import mlopt
from mlopt.data import ImageData
from mlopt.nas import Architecture, SearchSpace, Supernet
from support.networks import supernet
from support.optimization import adam, engine_options, sgd
from support.pipeline import main
from support.search import Learner, Scheme, Search
from support.settings import Settings


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

        @mlopt.problem(over=V[k], given=[A[k]], data=train, name=f"{name}/stage1", **sgd(V[k], s))
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

    @mlopt.problem(over=A, given=[W], data=valid, start=s.pretrain + s.warmup, **adam(A, s))
    def stage3(a, w, batch):  # Eq. 3
        x, y = batch
        return sum(cross_entropy(w[k](x, a[k]()), y) for k in everyone)

    return mlopt.Engine(
        [*stage1, *pseudo_labels, *(group(k) for k in everyone), stage3],
        **engine_options(s),
    )


def search(
    spaces: list[SearchSpace], data: ImageData, train, valid, unlabeled, s: Settings
) -> Search:
    """The networks, each with initial weights of its own, and the graph, ready to run.

    Each learner has a space of its own: after a stage of P-DARTS they have kept different
    operations.
    """
    learners, group = [], []
    for k, space in enumerate(spaces, start=1):
        nets = Networks(
            a=space.architecture().to(s.device),
            v=supernet(space, data, s),
            w=supernet(space, data, s),
        )
        name = f"learner_{k}"
        group.append(nets)
        learners.append(Learner(space, nets.a, nets.w, training=f"{name}/stage1/loss", name=name))
    return Search(
        engine=sgl(group, train, valid, unlabeled, s),
        learners=learners,
        networks=[net for nets in group for net in (nets.v, nets.w)],
        before=s.pretrain,
        epochs=s.epochs,
        phases={"learner_1/stage1": "stage I", "learner_1/stage2": "warm-up", "stage3": "search"},
    )


scheme = Scheme("SGL", search, unlabeled=True, group=True, base=darts.scheme)

if __name__ == "__main__":
    main("sgl_darts", scheme, __doc__)
