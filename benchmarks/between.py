"""Text that a program writes between two lines of a file."""

from pathlib import Path

from rence_lightning.errors import UserError


def replaced(path: Path, start: str, end: str, text: str) -> str:
    """The text of a file with another text between two lines.

    Args:
        path: File to read; it is not changed.
        start: Line after which the text begins.
        end: Line before which it ends, the first one of this kind after `start`.
        text: Text between them, of whole lines.

    Raises:
        UserError: The file cannot be read, or has no such lines.
    """
    try:
        before, found, rest = path.read_text(encoding="utf-8").partition(f"{start}\n")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    _, closed, after = rest.partition(f"{end}\n")
    if not (found and closed):
        raise UserError(f"{path}: it has no lines {start!r} and {end!r}; add both")
    return f"{before}{found}{text}{closed}{after}"
