"""The supervisor's parts: the engine's process, the runs it holds, the storing of results, what it publishes.

Import rule: convscope.protocol, `workers.engine.config` and `workers.engine.wire`; never torch, also not indirectly.
"""
