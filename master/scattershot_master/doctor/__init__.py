"""The probes of `scattershot doctor`, a module for each thing probed; none changes a study."""
