"""Checks that the extra `vllm` can be installed on Linux with CUDA, with each supported release: `python -m
contracts.resolve_vllm`.

`uv` resolves the versions of all packages, without downloading any of them.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from rence_lightning.rollouts.vllm_host import SUPPORTED

ROOT = Path(__file__).parents[2]
PLATFORM = ("--python-platform=x86_64-manylinux_2_35", "--python-version=3.12")
SHOWN = ("vllm", "torch", "transformers", "lightning")


def resolved(release: str) -> list[str]:
    """The versions of all packages, with that release of vLLM."""
    with tempfile.TemporaryDirectory() as folder:
        constraint = Path(folder, "constraint.txt")
        constraint.write_text(f"vllm=={release}\n")
        command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--no-header"]
        command += [str(ROOT / "pyproject.toml"), "--extra=vllm", "--no-annotate", f"--constraint={constraint}"]
        done = subprocess.run([*command, *PLATFORM], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:  # uv has printed which package lacks which version
        sys.exit(f"error: the extra `vllm` cannot be installed with vLLM {release}; see pyproject.toml")
    return done.stdout.split()


def main() -> None:
    for release in SUPPORTED:
        versions = resolved(release)
        shown = [each for each in versions if each.partition("==")[0] in SHOWN]
        print(f"{len(versions)} packages can be installed together, with {', '.join(sorted(shown))}")


if __name__ == "__main__":
    main()
