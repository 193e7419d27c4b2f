"""Comparisons. What is compared runs in a process that is set up as an engine's is, the peers as well as ours."""

from workers.engine.environment import prepare_process

prepare_process()
