"""`python docs/figures/report.py runs/arithmetic`: the top of a report as a picture for the README, by Chromium."""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SIZE = (1160, 1240)
"""Size of the picture in pixels: the answers, and the first row of figures."""


def main(run_dir: Path) -> None:
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed")
    with TemporaryDirectory() as folder:
        shot = Path(folder, "report.png")
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}", size]
        page = (run_dir / "report.html").resolve().as_uri()
        subprocess.run([browser, *options, f"--screenshot={shot}", page], check=True)
        picture = Image.open(shot).convert("RGB").quantize(128)
    picture.save(Path(__file__).with_suffix(".png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
