"""The sections of a configuration, by name: known without importing the classes that they configure."""

# In the order in which they run: an iteration is measured and shown, the policy is evaluated, saved and exported.
CALLBACKS = {
    "old_policy": "OldPolicySnapshot",
    "adaptive_kl": "AdaptiveKL",
    "rollout_log": "RolloutLog",
    "progress": "Progress",
    "evaluation": "BenchmarkEvaluation",
    "checkpoint": "Checkpoint",
    "export": "ExportPolicy",
    "timing": "Timing",
    "report": "Report",
}
"""The callbacks that make up the method, by their sections: the names of classes in `rence_lightning.callbacks`."""

SECTIONS = ("trainer", "model", "data", *CALLBACKS)
"""The keys at the top of a configuration that hold further keys."""
