"""The choice of the prompts to sample and of the groups to train on: pool, order, sizes of draws, and filtering."""
