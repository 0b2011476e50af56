"""A search, from its scheme to the last stage of its space.

Start with search.py, what a scheme makes, and stages.py, which runs it. epochs.py, average.py,
alarms.py and log.py accompany it; measures.py is what they know of its learners.

May import: ranks, settings, networks.
"""

from .average import Follow
from .learner import Learner
from .measures import pair_agreement, validation
from .scheme import Scheme
from .search import Search
from .stages import run_search, run_stages

__all__ = [
    "Follow",
    "Learner",
    "Scheme",
    "Search",
    "pair_agreement",
    "run_search",
    "run_stages",
    "validation",
]
