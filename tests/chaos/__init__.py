"""Kill everything, lose nothing: `make chaos`, and a shorter form in the test suite."""
