"""What follows a search: the derived network from scratch, and its test error.

Start with training.py. network.py makes the network and counts its parameters.

May import: settings, data, networks, results.
"""

from .network import build, size
from .training import began, check, retrain_and_test, retrain_seeds

__all__ = ["began", "build", "check", "retrain_and_test", "retrain_seeds", "size"]
