"""One module an address: each defines `router` and is found by that name.

May import every other room of the service; nothing but service.app imports it.
"""
