"""The queue: job records, lanes, events and cards in one Redis or Valkey, each move one Lua script.

May import convscope.protocol and convscope.settings, and redis.
"""
