"""One attempt at a trial: claim, reports, checkpoints, end."""
