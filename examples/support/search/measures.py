"""What is measured of a search after every epoch: each learner, and what they have in common."""

from __future__ import annotations

import copy
import itertools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mlopt.nas import PRIMITIVES, CollapseMonitor, agreement, total_variation

from .learner import Learner

#: Thresholds of the alarms.
MONITOR = CollapseMonitor()


def validation(
    learners: Sequence[Learner], valid: Any, device: str, losses: Mapping[str, float] | None = None
) -> dict[str, float]:
    """What is measured of each learner; of several, how much they found the same, too.

    Args:
        learners: those who learn.
        valid: loader of the validation half.
        device: where batches are moved to.
        losses: mean losses of the engine over the last epoch, by name.
    """
    # The whole of it, so that all ranks find the same; and the engine is in the middle of its pass.
    valid = copy.copy(getattr(valid, "split_of", valid))
    metrics = {
        x.key(k): v for x in learners for k, v in measured(x, valid, device, losses or {}).items()
    }
    pairs = [pair_agreement(a, b) for a, b in itertools.combinations(learners, 2)]
    for name in pairs[0] if pairs else ():
        metrics[f"agreement/{name}"] = statistics.mean(pair[name] for pair in pairs)
    return metrics


def measured(
    learner: Learner, valid: Any, device: str, losses: Mapping[str, float]
) -> dict[str, float]:
    """A learner's validation error and loss, and the signs of a collapse."""
    with torch.no_grad():
        weights = learner.architecture()
    error, loss = classify(
        lambda x: learner.classifier(x, weights), learner.classifier, valid, device
    )
    signs = MONITOR.measures(
        learner.architecture, learner.genotype(), loss, losses.get(learner.training)
    )
    return {"validation/error": error, "validation/loss": loss, **signs}


def pair_agreement(a: Learner, b: Learner) -> dict[str, float]:
    """How much two learners found the same: edges, operations, and the distance of the mixtures."""
    first, second = a.genotype(), b.genotype()
    shared = {} if first is None or second is None else agreement(first, second)
    return {**shared, "total_variation": total_variation(a.architecture, b.architecture)}


@torch.no_grad()
def mixtures(learners: Sequence[Learner]) -> dict[str, Any]:
    """The architecture weights of each learner, by edge and operation, for the log."""
    found: dict[str, Any] = {}
    for learner in learners:
        architecture = learner.architecture
        weights = architecture()
        names = architecture.operations
        whole = len(names) == weights.normal.shape[1]  # else an edge has some of all operations
        found[learner.key("operations")] = list(names if whole else PRIMITIVES)
        for kind, table in (("normal", weights.normal), ("reduce", weights.reduce)):
            rounded = [[round(weight, 4) for weight in edge] for edge in table.tolist()]
            found[learner.key(f"weights/{kind}")] = rounded
    return found


@torch.no_grad()
def classify(
    logits: Callable[[Tensor], Tensor], network: nn.Module, batches: Any, device: str
) -> tuple[float, float]:
    """Error (percent) and mean loss over a loader, in evaluation mode, on randomness of its own."""
    wrong, loss, total = 0, 0.0, 0
    training = network.training
    network.eval()
    with torch.random.fork_rng(devices=[]):
        for x, y in batches:
            x, y = x.to(device), y.to(device)
            out = logits(x)
            wrong += int((out.argmax(1) != y).sum())
            loss += float(cross_entropy(out, y, reduction="sum"))
            total += len(y)
    network.train(training)
    return 100 * wrong / total, loss / total
