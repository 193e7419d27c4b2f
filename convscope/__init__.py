"""Convscope: a REST service that shows what a convolutional network sees.

This package is what the service and the workers share, and what a person runs. It may import neither of them, and no
torch; the files beside its rooms (settings, logs, backoff, recent, parent) import no room, and `recent` nothing at all,
so that workers.passes may keep things in it.
"""

__version__ = "0.1.0"
