"""Owns the built-in tasks; `scattershot.task_names` lists them by name."""
