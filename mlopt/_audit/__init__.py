"""`audit`: are the gradients of this graph right, where it stands?

- audit: the function; study: what the parts of one audit share; findings: the result.
- run: a hypergradient of the engine; probe: its pullbacks; cost: what they take.
- precision: the engine in float64.
- values: objectives and solutions by their definitions, with dependence, solutions and optima.
- edges: pullbacks against the reference; radii: of difference products.
- totals: whole hypergradients against differences.
- reads: gradients of functions against slopes of their values; ways: past autograd.
- repeat: two evaluations at one point; kinks: functions that are not smooth.

Imports every room above it but `penalty`. Start reading at `audit.py`.
"""

from .audit import audit
from .findings import Audit, AuditError, Cause, Finding

__all__ = ["Audit", "AuditError", "Cause", "Finding", "audit"]
