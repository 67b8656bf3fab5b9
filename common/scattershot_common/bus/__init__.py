"""Owns the Redis side: keys, connections, the trial's state, the queue out, the stream back."""
