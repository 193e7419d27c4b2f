"""The artifact store and what is kept in it: arrays, images, image sets, model cards.

May import convscope.queue, convscope.protocol and convscope.settings, and obstore.
"""
