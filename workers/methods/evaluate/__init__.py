"""The method `evaluate`: explanations under tests.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method: the explanations come
from the methods that the engine grants.
"""

from workers.methods.evaluate.method import METHOD

__all__ = ["METHOD"]
