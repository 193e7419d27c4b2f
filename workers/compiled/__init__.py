"""Loops compiled for this processor and what is built of them: minimal filtering, pooling, thin convolutions.

May import torch, numpy, numba and the files of this room.
"""
