"""DARTS (Liu, Simonyan, Yang, ICLR 2019): architecture A over weights W.

min over A  L(w*(A), A, D_val)    where    w*(A) = argmin over w  L(w, A, D_tr)

python examples/darts.py                                  # second order, digits
python examples/darts.py --order first --steps upper-first    # the published script's order
"""

from __future__ import annotations

from pipeline import Search, adam, hypergradient_method, main, sgd
from settings import Settings
from torch.nn.functional import cross_entropy

import mlopt
from mlopt.data import ImageData
from mlopt.nas import Architecture, Supernet


def darts(a: Architecture, w: Supernet, train, valid, s: Settings) -> mlopt.Engine:
    """The graph: weights below, architecture above."""
    A, W = mlopt.Variable(a, "a"), mlopt.Variable(w, "w")
    schedule = mlopt.Sequential() if s.order == "first" else mlopt.Simultaneous()
    if s.steps == "upper-first":
        schedule = mlopt.UpperFirst()

    @mlopt.problem(over=W, given=[A], data=train, clip=s.clip, **sgd(W, s))
    def weights(w, a, batch):
        x, y = batch
        return cross_entropy(w(x, a()), y)

    @mlopt.problem(over=A, given=[W], data=valid, start=s.pretrain + s.warmup, optimizer=adam(A, s))
    def architecture(a, w, batch):
        x, y = batch
        return cross_entropy(w(x, a()), y)

    return mlopt.Engine(
        [weights, architecture],
        hypergrad=hypergradient_method(s),
        schedule=schedule,
        device=s.device,
        seed=s.seed,
    )


def scheme(data: ImageData, train, valid, s: Settings) -> Search:
    """The networks and the graph, ready to run."""
    a = Architecture(s.nodes).to(s.device)
    w = Supernet(s.channels, s.cells, data.classes, s.nodes, data.channels).to(s.device)
    engine = darts(a, w, train, valid, s)
    return Search(engine, a, classifier=w, networks=(w,), epochs=s.pretrain + s.epochs)


if __name__ == "__main__":
    main("darts", scheme, __doc__, plain=False)
