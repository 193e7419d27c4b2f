"""The engine: one child process that computes. It has torch and no Redis; a supervisor feeds it through a socket.

Import rule: torch, numpy, safetensors, workers.contract, workers.networks, workers.methods; never Redis or the artifact
store. `wire`, `config`, `plan` and `scheduler` have no torch either: the supervisor and plain tests import them.
"""
