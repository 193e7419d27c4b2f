"""The worker: a supervisor that claims work and an engine, its child process, that computes."""
