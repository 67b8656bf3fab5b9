"""The search space: axes, boxes, and how [space] is read."""
