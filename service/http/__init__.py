"""HTTP itself: who calls, what is accepted, problems, streams, metrics and the log of requests.

May import convscope and the web framework; nothing else of the service.
"""
