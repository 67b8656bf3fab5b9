"""Redis: keys, connections, trial states, the queue to the workers, the event stream back."""
