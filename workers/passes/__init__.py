"""Mathematics that several methods share: running a network with its calls in view, paces, rules, statistics.

May import torch, workers.contract and workers.compiled; nothing of convscope, no method.
"""
