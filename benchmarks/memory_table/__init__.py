"""Which pass fits: policies from 0.6B to 32B on 1 to 64 GPUs."""
