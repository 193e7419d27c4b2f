"""What a person runs: `convscope serve | api | worker | models | settings | run`.

The service and the workers are started as processes, never imported. May import every other room of convscope.
"""

from convscope.cli.app import main

__all__ = ["main"]
