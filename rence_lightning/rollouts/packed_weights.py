"""Linear layers whose weights lie in the order in which oneDNN multiplies by them.

A decoding step multiplies a few dozen rows by each weight, and a fifth to two fifths of such a product's time goes into
reading the weight in another order than its own. A copy in the right order is therefore made once, before sampling.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

SMALL = 2**16
"""Largest number of elements of a weight that stays as it is: its products are too short for the longer call."""


class PackedWeights:
    """Copies of the weights of a model's linear layers on a CPU in float32, and the layers' products with them.

    The copies take as much memory as the weights; where all weights are trained, this is the memory that gradients have
    during updates. Products equal those of the layers apart from rounding, and depend neither on the number of rows
    (from two on) nor on the other rows. Elsewhere, and where autocast changes the data type, the layers stay as they
    are.
    """

    def __init__(self, model: nn.Module) -> None:
        usable = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # x86 alone was measured
        usable = usable and not torch.is_autocast_enabled("cpu")
        linear = [each for each in model.modules() if type(each) is nn.Linear and "forward" not in vars(each)]
        self._products = {each: _product(each) for each in linear if usable and _gains(each)}

    @contextmanager
    def used(self) -> Iterator[None]:
        """Lets the layers multiply with the copies, in forward passes without a gradient."""
        try:
            for layer, product in self._products.items():
                vars(layer)["forward"] = product
            yield
        finally:
            for layer in self._products:
                vars(layer).pop("forward", None)


def _gains(layer: nn.Linear) -> bool:
    weight = layer._parameters.get("weight")  # not one that a hook computes anew before each product
    if type(weight) is not nn.Parameter:
        return False
    return weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() > SMALL


@torch.no_grad()
def _product(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight)
    bias = layer.bias

    def multiply(states: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(states, weight, bias, "none", [], "")
        return product

    return multiply
