"""mlopt: multi-level optimization for PyTorch. One function a level; the engine does the rest."""

from ._callback import Callback
from ._engine import Engine
from ._errors import DataError, GraphError, MloptError, NonFiniteError, SettingsError
from ._graph import Graph
from ._hypergrad import AbstractHypergradient, Cost, Response
from ._plan import Plan
from ._problem import PerStep, Problem, problem
from ._products import AbstractProduct, Central, Exact, OneSided
from ._schedule import AbstractSchedule, Alternate, Sequential, Simultaneous, UpperFirst
from ._signal import Signal, signal
from ._stream import Stream
from ._variable import Variable, stop
from .hypergrad import Frozen, OneStep, StopGradient

__version__ = "0.1.0"

__all__ = [
    "AbstractHypergradient",
    "AbstractProduct",
    "AbstractSchedule",
    "Alternate",
    "Callback",
    "Central",
    "Cost",
    "DataError",
    "Engine",
    "Exact",
    "Frozen",
    "Graph",
    "GraphError",
    "MloptError",
    "NonFiniteError",
    "OneSided",
    "OneStep",
    "PerStep",
    "Plan",
    "Problem",
    "Response",
    "Sequential",
    "SettingsError",
    "Signal",
    "Simultaneous",
    "StopGradient",
    "Stream",
    "UpperFirst",
    "Variable",
    "problem",
    "signal",
    "stop",
]
