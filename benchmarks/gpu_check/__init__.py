"""A check of a new machine with GPUs: whether its results are correct, and how fast it is."""
