"""The paper's run, replayed through planner and scheduler without a model."""
