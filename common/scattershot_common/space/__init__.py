"""The search space: its axes, boxes in it, and the parser of the [space] table."""
