"""Endpoints that were deployed from here: made, changed, and remembered."""
