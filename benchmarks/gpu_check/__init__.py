"""What to run first on a machine with GPUs: is it right, and how fast is it."""
