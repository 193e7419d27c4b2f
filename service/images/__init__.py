"""Uploads to pixels: formats, decoders in processes of their own, colours.

May import convscope and Pillow; nothing else of the service.
"""
