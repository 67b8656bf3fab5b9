"""User tasks: the interface, the meaning of outputs and targets, names, results of checks."""
