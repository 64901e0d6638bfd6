"""Policies that are part of the package, as folders in the Hugging Face format, loaded by the name `embedded:NAME`."""
