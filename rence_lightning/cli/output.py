"""What libraries print on the terminal."""

import sys


def hide_bars_in_files() -> None:
    """Switches off the progress bars of transformers where stderr is a file, which would hold every step of them."""
    if not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
