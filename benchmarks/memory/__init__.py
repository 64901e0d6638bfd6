"""Peak memory of an update, and of the ways to get log-probabilities without all logits."""
