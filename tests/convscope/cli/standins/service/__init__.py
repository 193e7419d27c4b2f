"""A stand-in for the service: the launcher's tests put it on the path before the real one."""
