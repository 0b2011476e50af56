"""Neural architecture search: supernets, genotypes, evaluation networks.

An island of plain PyTorch: it imports nothing of mlopt but its errors, its checks and `_files`,
and the core knows nothing of it. Start reading at `supernet.py`, then `spaces/darts.py`.
"""

from __future__ import annotations

from mlopt.nas.agreement import agreement, total_variation
from mlopt.nas.architecture import Architecture, ArchitectureWeights
from mlopt.nas.class_losses import ClassLosses, mean_per_class, sums_per_class
from mlopt.nas.collapse import Alarm, CollapseMonitor, largest_none, skip_share
from mlopt.nas.derive import derive
from mlopt.nas.draw import draw
from mlopt.nas.evaluation import EvaluationNetwork
from mlopt.nas.genotype import Genotype
from mlopt.nas.genotypes import GENOTYPES, load_genotype
from mlopt.nas.imagenet_network import ImageNetNetwork
from mlopt.nas.measure import Spread, count_parameters, evaluate, spread
from mlopt.nas.multiply_adds import multiply_adds
from mlopt.nas.operations import OPERATIONS, PRIMITIVES
from mlopt.nas.precision import MixedPrecision
from mlopt.nas.retrain import retrain
from mlopt.nas.schedules import SCHEDULES, lr_schedule
from mlopt.nas.space import SearchSpace
from mlopt.nas.spaces import DARTS, PCDARTS, PDARTS, SPACES, DARTSMinus
from mlopt.nas.supernet import Supernet

__all__ = [
    "DARTS",
    "GENOTYPES",
    "OPERATIONS",
    "PCDARTS",
    "PDARTS",
    "PRIMITIVES",
    "SCHEDULES",
    "SPACES",
    "Alarm",
    "Architecture",
    "ArchitectureWeights",
    "ClassLosses",
    "CollapseMonitor",
    "DARTSMinus",
    "EvaluationNetwork",
    "Genotype",
    "ImageNetNetwork",
    "MixedPrecision",
    "SearchSpace",
    "Spread",
    "Supernet",
    "agreement",
    "count_parameters",
    "derive",
    "draw",
    "evaluate",
    "largest_none",
    "load_genotype",
    "lr_schedule",
    "mean_per_class",
    "sums_per_class",
    "multiply_adds",
    "retrain",
    "skip_share",
    "spread",
    "total_variation",
]
