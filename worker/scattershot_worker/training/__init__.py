"""How one trial is trained: data, hyperparameters, optimizer, schedule, loop."""
