"""The supervisor: claims runs, feeds the engine's process, stores results, tells the queue.

May import convscope.queue, convscope.store, workers.wire and workers.engine_config; no torch, no workers.engine.
"""
