"""Rebuilding a lost ledger from what can be salvaged of a study: sound lines and checkpoints."""
