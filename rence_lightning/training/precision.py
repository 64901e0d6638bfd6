"""The precisions of the computation, as Fabric has them."""

import warnings
from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

from rence_lightning.errors import UserError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]

COMPUTE_TYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Data type of the computation in each mixed precision, in which the parameters are float32."""


def check_trained(precision: str, parameters: Iterable[Tensor]) -> None:
    """Refuses float16 parameters where the loss is scaled: gradients in float16 would overflow when they are summed.

    It warns of other parameters in 16 bits, which the optimizer's small steps do not change.

    Raises:
        UserError: A parameter that is trained is in float16.
    """
    types = {each.dtype for each in parameters if each.requires_grad}
    if precision == "16-mixed" and torch.float16 in types:
        raise UserError(
            "trainer: precision is 16-mixed, but the parameters that are trained are in float16 too; set model.dtype "
            "to float32"
        )
    if types & {torch.bfloat16, torch.float16}:
        warnings.warn(
            "the parameters that are trained have 16 bits, and steps of the optimizer below half the spacing of such "
            "numbers are lost; set model.dtype to float32, and trainer.precision to bf16-mixed or 16-mixed",
            stacklevel=2,
        )
