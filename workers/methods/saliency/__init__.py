"""The method `saliency`.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method.
"""

from workers.methods.saliency.method import METHOD

__all__ = ["METHOD"]
