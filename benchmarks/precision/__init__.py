"""What a policy sees of its own movement in half precision, and whether that matters for learning."""
