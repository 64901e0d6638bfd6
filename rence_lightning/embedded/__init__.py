"""Policies shipped inside the package, as folders in the Hugging Face format; load one as `embedded:NAME`."""
