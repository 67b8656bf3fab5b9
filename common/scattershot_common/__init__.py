"""Code shared by master and worker: space, study, task, bus, store. Never imports torch."""
