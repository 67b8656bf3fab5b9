"""Processes that the master starts: workers by launchers, and the checks of a task."""
