"""The one algorithm: evaluations going up, cotangents going down.

`ascent.py` and `descent.py` are the reverse sweep over a staged graph. `total.py` is its form for
nested levels, whose lower solutions follow what is displaced above them.

Imports the ground, `hypergrad`, `_graph` and `_evaluation`. Start reading at `ascent.py`.
"""
