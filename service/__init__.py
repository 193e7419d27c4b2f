"""The HTTP service: validates, stores uploads, submits, waits, renders, answers. Never torch, never workers."""
