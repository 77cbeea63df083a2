"""Probes: what is read from the machine while something runs, and what that costs the planet."""
