"""The HTTP service: validates, stores uploads, submits, waits, renders, answers.

May import convscope; never torch, never workers. A request walks one way through its rooms: app, routes, openapi,
answers, intake, dependencies, call, context, results, http and images; each may import those after it.
"""
