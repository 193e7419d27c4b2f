"""The method `classify`: the network's own answer, and how often it is right.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method.
"""

from workers.methods.classify.method import METHOD

__all__ = ["METHOD"]
