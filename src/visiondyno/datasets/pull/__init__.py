"""Published data sets: what is known of them, and getting them onto this machine."""
