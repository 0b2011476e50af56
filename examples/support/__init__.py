"""What the programs of `examples/` share, in rooms."""
