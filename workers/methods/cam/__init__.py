"""The method `cam`.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method.
"""

from workers.methods.cam.method import METHOD

__all__ = ["METHOD"]
