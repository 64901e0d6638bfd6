"""Fetches the sources of the supported releases of vLLM: `python -m contracts.fetch_vllm_sources FOLDER`.

They come from the wheels for GPUs, which pip downloads from the index that it is configured with, without installing
or building anything. The Python files of a release are kept in a folder of its own, and are not fetched again.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rence_lightning.rollouts.vllm_host import SUPPORTED

PLATFORM = ("--platform=manylinux_2_28_x86_64", "--python-version=3.12", "--only-binary=:all:", "--no-deps")


def fetch(release: str, folder: Path) -> None:
    """Puts the Python files of a release into `FOLDER/RELEASE`."""
    with tempfile.TemporaryDirectory() as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", *PLATFORM]
        subprocess.run([*command, f"--dest={temporary}", f"vllm=={release}"], check=True)
        (wheel,) = Path(temporary).glob("vllm-*.whl")
        unfinished = Path(tempfile.mkdtemp(dir=folder))
        with zipfile.ZipFile(wheel) as archive:
            files = [name for name in archive.namelist() if name.startswith("vllm/") and name.endswith(".py")]
            archive.extractall(unfinished, files)
        unfinished.rename(folder / release)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for release in SUPPORTED:
        if not (folder / release).is_dir():
            fetch(release, folder)


if __name__ == "__main__":
    main()
