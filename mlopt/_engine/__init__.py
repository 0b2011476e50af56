"""Steps and runs: plan, schedule, step, transaction, loop, callbacks.

Imports everything above it: the ground, `hypergrad`, `optim`, `_graph`, `_evaluation` and `_sweep`.
Start reading at `engine.py`, then `step.py`.
"""
