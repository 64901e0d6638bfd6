"""The same GRPO work by TRL and by this project, in turns on one machine."""
