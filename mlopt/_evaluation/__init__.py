"""A node at a point: values swapped in, randomness replayed, buffers protected.

One evaluation, alone, batched over a stack, or compiled; and the checks before the first step that
need evaluations.

Imports the ground, `hypergrad` and `_graph`. Start reading at `point.py`.
"""
