"""Engines, which train the trials of a pack epoch by epoch."""
