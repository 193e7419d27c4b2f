"""The worker: a supervisor that claims work and an engine, its child process, that computes.

May import convscope but its pictures and its command line; never service.
"""
