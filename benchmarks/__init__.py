"""Comparisons that are run, not asserted."""
