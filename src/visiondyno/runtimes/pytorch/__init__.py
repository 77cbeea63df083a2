"""Models that torch runs, one module a library of models."""
