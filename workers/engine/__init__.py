"""The engine: a process that computes, and the one it is forked from.

It has torch and no Redis; a supervisor feeds it through a socket.
"""
