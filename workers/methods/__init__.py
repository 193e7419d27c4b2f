"""One module or folder a method, named as its operation: pure functions, tensors in, named tensors out.

May import torch, workers.contract, workers.passes and workers.compiled; no other method, nothing of convscope.
"""
