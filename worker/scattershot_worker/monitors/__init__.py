"""Monitors of a training: norms, activations, metrics of the training part, layer records."""
