"""A stand-in for the worker: the launcher's tests put it on the path before the real one."""
