"""Studies: many trials at once over any place, kept calm when places or this process fail."""
