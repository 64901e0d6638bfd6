"""The command line: `fit`, `validate` and the commands that need no configuration."""
