"""Put a vision model on the dyno."""

__version__ = "0.1.0"
