"""The method `top-activations`: strongest units of an image set, streamed.

May import workers.contract, workers.passes, workers.compiled and its own files; no other method.
"""

from workers.methods.top_activations.method import METHOD

__all__ = ["METHOD"]
