"""Labelled images: the seam, the formats behind it, and how model and data classes meet."""
