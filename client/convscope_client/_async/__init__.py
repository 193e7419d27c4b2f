"""The asynchronous client, which is written by hand; the blocking one in `_sync` is made from it by `generate.py`."""
