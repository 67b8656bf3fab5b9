"""Owns the recipe: what it decides at each step, the study file it writes, the page about it."""
