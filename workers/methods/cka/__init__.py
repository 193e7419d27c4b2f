"""The method `cka`.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method.
"""

from workers.methods.cka.method import METHOD

__all__ = ["METHOD"]
