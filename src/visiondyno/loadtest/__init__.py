"""Load tests: what a deployment does under a load, timed from when each request was meant to go."""
