"""The parts of the check, in the order in which they run: first whether results are right, then how fast it is."""

from dataclasses import dataclass

HERE = "benchmarks.gpu_check.parts"


@dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
        name: Name on the command line.
        function: Import path of the function `(settings, findings)` that checks, `module:function`.
        proves: What holds if it passes, in one sentence.
        minutes: Time limit on a machine with GPUs, in minutes.
    """

    name: str
    function: str
    proves: str
    minutes: float


PARTS = (
    Part("machine", f"{HERE}.machine:check", "torch sees all GPUs, and the vLLM release is a supported one", 2),
    Part("losses", f"{HERE}.losses:check", "losses and gradients on the GPU equal those on the CPU", 5),
    Part("packed", f"{HERE}.packed:check", "packed rows give the log-probabilities and gradients of padded rows", 10),
    Part("engine", f"{HERE}.engine:check", "after each push and each sleep, the engine samples from the policy", 20),
    Part("runner", f"{HERE}.runner:check", "vLLM's model runners V1 and V2 give the same tokens", 15),
    Part(
        "tensor_parallel",
        f"{HERE}.tensor_parallel:check",
        "an engine that two GPUs share samples what one of each samples",
        20,
    ),
    Part("sharding", f"{HERE}.sharding:check", "a sharded policy trains and samples like a whole one", 15),
    Part("ratio", f"{HERE}.ratio:check", "pi_theta / pi_old is exactly 1 before a step, in each precision", 10),
    Part("kill", f"{HERE}.kill:check", "a killed rank leaves neither processes nor GPU memory behind", 20),
    Part("memory", f"{HERE}.memory:check", "an update takes the memory that the plan says", 15),
    Part("update", f"{HERE}.update:check", "an update works at full length; tokens/s and share of the peak", 30),
    Part("run", f"{HERE}.run:check", "three iterations of the paper's run work; seconds by phase", 60),
    Part("demo", f"{HERE}.demo:check", "the demo learns, sharded and in bfloat16", 20),
)
