"""Neural architecture search: supernets, genotypes, evaluation networks. Plain PyTorch."""

from __future__ import annotations

from mlopt.nas.agreement import agreement, total_variation
from mlopt.nas.architecture import Architecture, ArchitectureWeights
from mlopt.nas.class_losses import ClassLosses, mean_per_class
from mlopt.nas.cutout import Cutout
from mlopt.nas.derive import derive
from mlopt.nas.draw import draw
from mlopt.nas.evaluation import EvaluationNetwork
from mlopt.nas.genotype import Genotype
from mlopt.nas.genotypes import GENOTYPES
from mlopt.nas.operations import OPERATIONS, PRIMITIVES
from mlopt.nas.retrain import count_parameters, evaluate, retrain
from mlopt.nas.supernet import Supernet

__all__ = [
    "GENOTYPES",
    "OPERATIONS",
    "PRIMITIVES",
    "Architecture",
    "ArchitectureWeights",
    "ClassLosses",
    "Cutout",
    "EvaluationNetwork",
    "Genotype",
    "Supernet",
    "agreement",
    "count_parameters",
    "derive",
    "draw",
    "evaluate",
    "mean_per_class",
    "retrain",
    "total_variation",
]
