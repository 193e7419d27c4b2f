"""The supervisor's parts: the engine's process, the runs it holds, the storing of results, what it publishes."""
