"""The networks of a search, as the settings want them.

Start with spaces.py: the search space. formats.py makes its supernets, gan.py the networks of
LFM-CW's GAN, pixels.py fits their images to one another.

May import: settings.
"""

from .formats import prepared, supernet
from .gan import make_average, make_players
from .pixels import Pixels
from .spaces import TITLES, search_space

__all__ = [
    "TITLES",
    "Pixels",
    "make_average",
    "make_players",
    "prepared",
    "search_space",
    "supernet",
]
