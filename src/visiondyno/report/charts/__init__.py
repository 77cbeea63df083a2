"""The report's plots, one module a theme; each takes values and a width and gives an SVG image."""
