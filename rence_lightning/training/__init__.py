"""Training: the Fabric loop, the LightningModule, and sharding."""

from rence_lightning.training.module import PolicyModule
from rence_lightning.training.strategy import FullyShardStrategy
from rence_lightning.training.trainer import Trainer

__all__ = ["FullyShardStrategy", "PolicyModule", "Trainer"]
