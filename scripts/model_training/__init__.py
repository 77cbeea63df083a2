"""What the making of every shipped model has in common: command line, loop, export, record."""
