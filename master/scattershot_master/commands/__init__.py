"""Owns the commands that run, steer and finish a study; those that look are in `show`."""
