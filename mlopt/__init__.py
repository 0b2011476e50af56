"""mlopt: multi-level optimization for PyTorch. One function a level; the engine does the rest."""

from . import games
from ._audit import Audit, AuditError, Cause, Finding, audit
from ._engine.best_checkpoint import BestCheckpoint
from ._engine.checkpoint import Checkpoint
from ._engine.early_stopping import EarlyStopping
from ._engine.engine import Callback, Engine
from ._engine.loops import Loops
from ._engine.plan import Plan
from ._engine.schedule import (
    AbstractSchedule,
    Alternate,
    Sequential,
    Simultaneous,
    Until,
    UpperFirst,
)
from ._engine.validation import Validation
from ._engine.verify import Resumption, verify_resume
from ._errors import (
    CapabilityWarning,
    ConvergenceError,
    ConvergenceWarning,
    DataError,
    GraphError,
    Interrupted,
    MloptError,
    NonFiniteError,
    RankError,
    SettingsError,
)
from ._foreign import refuse_foreign_files as _refuse_foreign_files
from ._graph.game import AbstractPlay, Game
from ._graph.graph import Graph
from ._graph.problem import PerStep, Problem, problem
from ._graph.signal import Signal, signal
from ._graph.stack import Stack
from ._graph.stream import Stream
from ._variable import Variable, stop
from .hypergrad import Frozen, Implicit, OneStep, Sama, StopGradient, Unrolled, ZerothOrder
from .hypergrad.curvature import AbstractCurvature, GaussNewton, Hessian, outputs
from .hypergrad.interface import AbstractHypergradient, Cost, Response
from .hypergrad.products import AbstractProduct, Central, Exact, OneSided
from .penalty import Growing, Penalty, bome, f2sa
from .solvers import CG, GMRES, AbstractSolver, Dense, Neumann, Nystrom

__version__ = "0.1.0"

_refuse_foreign_files(__path__[0])

__all__ = [
    "CG",
    "GMRES",
    "AbstractCurvature",
    "AbstractHypergradient",
    "AbstractPlay",
    "AbstractProduct",
    "AbstractSchedule",
    "AbstractSolver",
    "Alternate",
    "Audit",
    "AuditError",
    "BestCheckpoint",
    "Callback",
    "CapabilityWarning",
    "Cause",
    "Central",
    "Checkpoint",
    "ConvergenceError",
    "ConvergenceWarning",
    "Cost",
    "DataError",
    "Dense",
    "EarlyStopping",
    "Engine",
    "Exact",
    "Finding",
    "Frozen",
    "Game",
    "GaussNewton",
    "Graph",
    "GraphError",
    "Growing",
    "Hessian",
    "Implicit",
    "Interrupted",
    "Loops",
    "MloptError",
    "Neumann",
    "NonFiniteError",
    "RankError",
    "Nystrom",
    "OneSided",
    "OneStep",
    "Penalty",
    "PerStep",
    "Plan",
    "Problem",
    "Response",
    "Resumption",
    "Sama",
    "Sequential",
    "SettingsError",
    "Signal",
    "Simultaneous",
    "Stack",
    "StopGradient",
    "Stream",
    "Unrolled",
    "Until",
    "UpperFirst",
    "Validation",
    "Variable",
    "ZerothOrder",
    "audit",
    "bome",
    "f2sa",
    "games",
    "outputs",
    "problem",
    "signal",
    "stop",
    "verify_resume",
]
