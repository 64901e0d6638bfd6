"""Grading of mathematical answers: rules for when two answers are equal, applied in processes that can be killed."""
