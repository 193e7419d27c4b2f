"""One file a method, named as its operation: pure functions, tensors in, named tensors out.

Import rule: torch, numpy, workers.contract and workers.mathematics; never another method.
"""
