"""Owns the built-in tasks; `scattershot_common.task.task_names` lists them by name."""
