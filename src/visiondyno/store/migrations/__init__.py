"""The schema's history, for Alembic: `versions` holds one module for each step."""
