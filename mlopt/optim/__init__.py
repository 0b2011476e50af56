"""Torch optimizers as functions of (value, gradient, state).

`update_of`: one step, and the derivative of its update. `rule_of`: any number of steps, under
autograd.

Imports the ground. Start reading at `update.py` and `trajectory.py`, then `sgd.py`.
"""

from .trajectory import AbstractTrajectory, State, rule_of
from .update import AbstractUpdate, update_of

__all__ = ["AbstractTrajectory", "AbstractUpdate", "State", "rule_of", "update_of"]
