"""Owns how workers come to run: on this machine, for now."""
