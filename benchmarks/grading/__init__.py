"""Comparisons of the grader: with plain math-verify, and on hostile answers."""
