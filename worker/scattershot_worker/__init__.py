"""The worker wing: takes trials, trains them, writes checkpoints, reports."""
