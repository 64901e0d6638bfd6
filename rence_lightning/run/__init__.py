"""A run on disk: its directory, its checkpoints and its loggers."""
