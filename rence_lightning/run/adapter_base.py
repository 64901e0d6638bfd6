"""The model below the adapters of a checkpoint, which holds nothing else of the policy."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from rence_lightning.errors import UserError
from rence_lightning.policy import LoRA, Policy
from rence_lightning.policy.load import DType

FILE = "adapters.json"


@dataclass(frozen=True)
class Base:
    """The model below adapters, stored as `adapters.json` in a checkpoint.

    Attributes:
        policy: Name of the model, as in `model.policy`.
        dtype: Data type of its weights.
        digest: Digest of its weights, because the same adapters on other weights are another policy.
        lora: Settings of the adapters.
    """

    policy: str
    dtype: DType
    digest: str
    lora: LoRA

    @classmethod
    def of(cls, policy: Policy) -> "Base | None":
        """The model below the adapters of a policy; None without adapters. Every rank must call it."""
        if (adapters := policy.adapters) is None:
            return None
        dtype = cast(DType, str(policy.model.dtype).removeprefix("torch."))
        return cls(adapters.base, dtype, policy.frozen_digest(), adapters.lora)

    @classmethod
    def read(cls, checkpoint: Path) -> "Base | None":
        """What a checkpoint says of the model; None if it holds a whole policy.

        Raises:
            UserError: Its file cannot be read.
        """
        try:
            content = json.loads((path := checkpoint / FILE).read_text())
            return cls(**{**content, "lora": LoRA(**content["lora"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} does not describe adapters ({error}); give another checkpoint") from error

    def write(self, checkpoint: Path) -> None:
        (checkpoint / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n")


def check_base(checkpoint: Path, policy: Policy) -> None:
    """Compares the model below a policy's adapters with that of a checkpoint; every rank must call it.

    Raises:
        UserError: The two models differ, or only one of policy and checkpoint has adapters.
    """
    saved, ours = Base.read(checkpoint), Base.of(policy)
    if saved is None and ours is None:
        return
    if saved is None:
        raise UserError(f"model.lora is set, but {checkpoint} holds a whole policy without adapters; set it to null")
    if ours is None:
        settings = ", ".join(f"{key}: {value}" for key, value in asdict(saved.lora).items())
        raise UserError(
            f"{checkpoint} holds adapters alone, but model.lora is null; set it to {{{settings}}}, and model.policy to "
            f"{saved.policy}"
        )
    if saved.lora != ours.lora:
        raise UserError(f"model.lora is {ours.lora}, but {checkpoint} was made with {saved.lora}; set it back")
    if saved.digest != ours.digest:
        raise UserError(
            f"{checkpoint} holds adapters of {saved.policy} in {saved.dtype}, and the weights of {ours.policy} in "
            f"{ours.dtype} are others; set model.policy and model.dtype back, or restore the weights"
        )
