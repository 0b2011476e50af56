"""mlopt: multi-level optimization for PyTorch. One function a level; the engine does the rest."""

from ._callback import Callback
from ._engine import Engine
from ._errors import (
    ConvergenceError,
    ConvergenceWarning,
    DataError,
    GraphError,
    MloptError,
    NonFiniteError,
    SettingsError,
)
from ._graph import Graph
from ._hypergrad import AbstractHypergradient, Cost, Response
from ._plan import Plan
from ._problem import PerStep, Problem, problem
from ._products import AbstractProduct, Central, Exact, OneSided
from ._schedule import AbstractSchedule, Alternate, Sequential, Simultaneous, UpperFirst
from ._signal import Signal, signal
from ._stream import Stream
from ._variable import Variable, stop
from .hypergrad import Frozen, Implicit, OneStep, Sama, StopGradient, Unrolled, ZerothOrder
from .solvers import CG, AbstractSolver, Dense, Neumann, Nystrom

__version__ = "0.1.0"

__all__ = [
    "CG",
    "AbstractHypergradient",
    "AbstractProduct",
    "AbstractSchedule",
    "AbstractSolver",
    "Alternate",
    "Callback",
    "Central",
    "ConvergenceError",
    "ConvergenceWarning",
    "Cost",
    "DataError",
    "Dense",
    "Engine",
    "Exact",
    "Frozen",
    "Graph",
    "GraphError",
    "Implicit",
    "MloptError",
    "Neumann",
    "NonFiniteError",
    "Nystrom",
    "OneSided",
    "OneStep",
    "PerStep",
    "Plan",
    "Problem",
    "Response",
    "Sama",
    "Sequential",
    "SettingsError",
    "Signal",
    "Simultaneous",
    "StopGradient",
    "Stream",
    "Unrolled",
    "UpperFirst",
    "Variable",
    "ZerothOrder",
    "problem",
    "signal",
    "stop",
]
