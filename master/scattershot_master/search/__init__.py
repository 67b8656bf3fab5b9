"""The master's loop: what to sample, judge, stage and send to Redis."""
