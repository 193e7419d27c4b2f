"""The engine: a process that computes, and the one it is forked from.

It has torch and no Redis; a supervisor feeds it through a socket.

Import rule: torch, numpy, safetensors, workers.contract, workers.networks, workers.methods; never Redis or the artifact
store. `wire`, `config`, `plan` and `scheduler` have no torch either: the supervisor and plain tests import them.
"""
