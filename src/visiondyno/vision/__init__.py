"""Pixels to tensors, tensors to predictions, and what they are worth."""
