"""Numbers and their uncertainty: pure arithmetic, no clocks, no models, no files."""
