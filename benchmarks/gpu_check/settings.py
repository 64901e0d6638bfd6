"""The settings that all parts of the check share."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Engine = Literal["vllm", "transformers"]
Shape = Literal["tiny", "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b"]


@dataclass(frozen=True)
class Settings:
    """What is checked, and at which sizes.

    Attributes:
        out: Directory for all files of the check.
        cpu: Whether this is a rehearsal on a CPU.
        devices: Number of GPUs, or of processes in a rehearsal.
        shape: Shape of the policy in the parts that measure speed and memory.
        packed_tokens: Numbers of tokens of the packed rows whose update is timed.
        cpu_offload: Whether the weights and the optimizer states of these updates stay in main memory.
        peak_tflops: Peak of one GPU in TFLOP/s, dense bfloat16; None takes it from the table in flops.py.
        vllm: Whether vLLM is installed.
    """

    out: Path
    cpu: bool
    devices: int
    shape: Shape
    packed_tokens: tuple[int, ...]
    cpu_offload: bool
    peak_tflops: float | None
    vllm: bool

    @property
    def accelerator(self) -> str:
        """Lightning's name of the kind of device."""
        return "cpu" if self.cpu else "gpu"

    @property
    def device(self) -> str:
        """Torch's name of the kind of device."""
        return "cpu" if self.cpu else "cuda"

    @property
    def engine(self) -> Engine:
        """Engine of the parts that run with any: vLLM where it is installed."""
        return "vllm" if self.vllm else "transformers"

    def to_json(self) -> str:
        return json.dumps({**asdict(self), "out": str(self.out)})

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        values: dict[str, Any] = json.loads(text)
        out, packed_tokens = Path(values.pop("out")), tuple(values.pop("packed_tokens"))
        return cls(out=out, packed_tokens=packed_tokens, **values)
