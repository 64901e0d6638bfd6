"""Comparisons of the grader: with plain math-verify, with itself beside busy processes, and on hostile answers."""
