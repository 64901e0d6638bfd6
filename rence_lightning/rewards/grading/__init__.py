"""Grading of mathematical answers: when two answers are equal, judged in processes that can be killed."""
