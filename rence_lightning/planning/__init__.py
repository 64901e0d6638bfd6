"""Memory of a run, before it starts: training tracked on fake devices, sampling by arithmetic."""

from rence_lightning.planning.advice import advice, largest_pass
from rence_lightning.planning.plan import USABLE, Plan, on_gpu, plan_of
from rence_lightning.planning.sampling_memory import EngineSetup, SamplingMemory, sampling_memory
from rence_lightning.planning.setup import TrainingSetup, read_shape
from rence_lightning.planning.training_memory import TrainingMemory, training_memory

__all__ = [
    "USABLE",
    "EngineSetup",
    "Plan",
    "SamplingMemory",
    "TrainingMemory",
    "TrainingSetup",
    "advice",
    "largest_pass",
    "on_gpu",
    "plan_of",
    "read_shape",
    "sampling_memory",
    "training_memory",
]
