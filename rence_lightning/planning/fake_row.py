"""A packed row of fake tensors."""

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rence_lightning.policy.packed_row import Block, PackedRow, PaddedRows


class FakeRow(PackedRow):
    """A packed row whose tensors have shapes but no values.

    What a row computes from its values is computed here from the real row, because no values are left afterwards.

    Args:
        row: The real row.
        mode: Mode that makes the tensors.
        gpu: Whether the row is attended to as on a GPU, which needs no blocks.
    """

    def __init__(self, row: PackedRow, mode: FakeTensorMode, gpu: bool) -> None:
        def fake(tensor: Tensor) -> Tensor:
            return mode.from_tensor(tensor)

        self.shapes = row.shapes
        self.input_ids = fake(row.input_ids)
        self.position_ids = fake(row.position_ids)
        self.segment_ids = fake(row.segment_ids)
        self.response_ids = fake(row.response_ids)
        self.states = fake(row.states)
        self._targets = fake(row.targets)
        padded = row.padded()
        self._padded = PaddedRows(fake(padded.input_ids), fake(padded.states))
        if not gpu:
            self.order = fake(row.order)
            self.blocks = [
                Block(
                    fake(block.queries),
                    fake(block.keys),
                    None if block.mask is None else fake(block.mask),
                    fake(block.kept),
                )
                for block in row.blocks
            ]

    @property
    def targets(self) -> Tensor:
        """Token ids of the responses, `(response tokens,)`."""
        return self._targets

    def padded(self) -> PaddedRows:
        """The same responses as rows of their own."""
        return self._padded

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that the row consists of."""
        return [self.input_ids, self.position_ids, self.segment_ids, self.response_ids, self.states, self._targets]
