"""Training of torch modules: configuration → module, checks, the epoch loop, resumable sessions.

Torch is imported inside functions only: it is an extra.
"""
