"""The language: requests, results, problems, model cards, what an operation declares.

May import pydantic and nothing of ours; no redis, no obstore, no torch.
"""
