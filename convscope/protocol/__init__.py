"""What the service and the workers say to each other: requests, results, jobs, cards, keys.

Import rule: nothing of ours outside this package, no torch, no web framework.
"""
