"""Mathematics that several methods share: running a network with its calls in view, paces, rules, statistics.

May import torch, workers.contract, workers.compiled and convscope.recent; nothing else of convscope, no method.
"""
