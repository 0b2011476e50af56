"""The plain search of DARTS (Liu, Simonyan, Yang, ICLR 2019): architecture A over weights W.

min over A  L(w*(A), A, D_val)    where    w*(A) = argmin over w  L(w, A, D_tr)

in any search space; P-DARTS, PC-DARTS and DARTS- are this search in spaces of their own.

python examples/darts.py                                      # second order, digits
python examples/darts.py --order first --steps upper-first    # the published script's order
python examples/darts.py --space pc-darts                     # or p-darts, darts-minus
"""

from __future__ import annotations

from torch.nn.functional import cross_entropy

import mlopt
from mlopt.data import ImageData
from mlopt.nas import Architecture, SearchSpace, Supernet
from support.networks import supernet
from support.optimization import adam, engine_options, sgd
from support.pipeline import main
from support.search import Learner, Scheme, Search
from support.settings import Settings


def darts(a: Architecture, w: Supernet, train, valid, s: Settings) -> mlopt.Engine:
    """The graph: weights below, architecture above."""
    A, W = mlopt.Variable(a, "a"), mlopt.Variable(w, "w")

    @mlopt.problem(over=W, given=[A], data=train, **sgd(W, s))
    def weights(w, a, batch):
        x, y = batch
        return cross_entropy(w(x, a()), y)

    @mlopt.problem(over=A, given=[W], data=valid, start=s.pretrain + s.warmup, **adam(A, s))
    def architecture(a, w, batch):
        x, y = batch
        return cross_entropy(w(x, a()), y)

    options = engine_options(s)
    if s.steps == "upper-first":
        options["schedule"] = mlopt.UpperFirst()
    return mlopt.Engine([weights, architecture], **options)


def search(space: SearchSpace, data: ImageData, train, valid, s: Settings) -> Search:
    """The networks and the graph, ready to run."""
    a = space.architecture().to(s.device)
    w = supernet(space, data, s)
    return Search(
        engine=darts(a, w, train, valid, s),
        learners=[Learner(space, a, classifier=w, training="weights/loss")],
        networks=[w],
        before=s.pretrain,
        epochs=s.epochs,
        phases={"weights": "weights alone", "architecture": "search"},
    )


scheme = Scheme("", search)

if __name__ == "__main__":
    main("darts", scheme, __doc__)
