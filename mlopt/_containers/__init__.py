"""Containers of any type: what they hold, opened and built anew; rows of batches, and loaders.

Imports the errors. Start reading at `containers.py`, then `rows.py`.
"""
