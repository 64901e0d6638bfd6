"""ReNCE on PyTorch Lightning: learning to reason by noise contrastive estimation.

Importing the package is cheap on purpose (no torch): the reward workers import it in every process.
"""

__version__ = "0.1.0"
