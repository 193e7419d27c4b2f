"""The blocking client, made from `_async` by `generate.py`; only `waiting.py` is written by hand."""
