"""What the levels of a scheme are optimized with.

Start with optimizers.py. engine.py has the hypergradients and the options of the engine.

May import: settings.
"""

from .engine import engine_options, hypergradient_method
from .optimizers import adam, gan_adam, sgd

__all__ = ["adam", "engine_options", "gan_adam", "hypergradient_method", "sgd"]
