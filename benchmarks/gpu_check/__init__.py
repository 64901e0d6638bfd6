"""How fast a machine with GPUs trains, and whether its memory is the one that `plan` computes."""
