"""Convscope: a REST service that shows what a convolutional network sees.

This package is the language that the service and the workers share, and what a person runs.
It imports neither of them, and no torch.
"""

__version__ = "0.1.0"
