"""What the parts of an iteration cost as its sizes grow."""
