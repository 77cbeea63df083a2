"""The report: what was measured, who wins, and every form it is read in."""
