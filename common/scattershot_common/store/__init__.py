"""Owns the checkpoint files: their names, what the disk does to them, and which of them stay."""
