"""The master's state: the ledger, the fold over it, and what is derived from it."""
