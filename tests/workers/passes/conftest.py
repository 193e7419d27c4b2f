"""One thread here too; see tests/workers/methods/conftest.py."""

from tests.workers.methods.conftest import one_thread

__all__ = ["one_thread"]
