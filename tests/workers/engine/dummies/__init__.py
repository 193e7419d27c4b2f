"""Throw-away methods that do on request what real ones do rarely: fail, hang, run out of memory, kill the process."""
