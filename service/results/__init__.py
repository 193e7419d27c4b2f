"""From stored arrays to bytes: NumPy, safetensors, JSON, pictures.

May import convscope, service.http and service.images.
"""
