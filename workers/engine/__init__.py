"""The engine: a process that computes, and the one it is forked from.

A supervisor feeds it through a socket. May import torch, workers.networks, workers.methods and what these stand on,
workers.wire and workers.engine_config; no Redis, no store, nothing of workers.supervision.
"""
