"""What a user declares, and what is understood of it.

Streams, nodes (signals and problems), groups (games and stacks), and the graph they make: who reads
whom, who responds to whom, what is refused. Nothing here evaluates a function.

Imports the ground, `hypergrad` and `optim`. Start reading at `problem.py`, then `graph.py`.
"""
