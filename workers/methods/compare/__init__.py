"""The method `compare`: two networks on the same images.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method: the class activation
maps come from the method `cam` that the engine grants.
"""

from workers.methods.compare.method import METHOD

__all__ = ["METHOD"]
