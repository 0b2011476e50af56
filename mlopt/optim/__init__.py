"""Torch optimizers as functions of (value, gradient, state), and the derivative of their update."""

from .update import AbstractUpdate, update_of

__all__ = ["AbstractUpdate", "update_of"]
