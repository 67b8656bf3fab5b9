"""What master and worker share: space, study, task, bus, store. Never imports torch."""
