r"""What several rooms need of text and of Python processes: `\boxed{...}`, the name nearest to a typo, a command."""

import hashlib
import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

# One scan from left to right. `\\`, `\{` and `\}` are consumed first, so that an escaped brace opens or closes nothing.
# The lookbehind accepts `\\boxed{` as a box, because models that quote LaTeX double the backslash.
_TOKEN = re.compile(r"(?<=\\)boxed\s*+\{|\\[\\{}]|[{}]")


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last balanced `\boxed{...}` of `text`, or None when there is none.

    The rules by example:

    - `\boxed{1} so \boxed{2}` gives `2`: the box that *opens* last wins, hence `\boxed{\boxed{3}+1}` gives `3`.
    - `\boxed{1} so \boxed{2` gives `1`: a box that is never closed (in a truncated response) is ignored.
    - `\boxed{\{1, 2\}}` gives `\{1, 2\}`: escaped braces do not count, `\\` is a line break and escapes nothing.
    - `\boxed {4}` gives `4`, as in LaTeX. `\boxed 4` and `\fbox{4}` are not what the prompt asks for and are no boxes.
    - `\boxed{}` gives the empty string: a box without an answer.

    The content is returned unchanged, with its blanks. Time and memory are linear in the length of the text.
    """
    open_braces: list[tuple[int, bool]] = []  # (start of the content, whether a box opened it)
    start, stop = -1, -1
    for token in _TOKEN.finditer(text):
        symbol = token.group()
        if symbol == "}":
            if open_braces:
                begin, is_box = open_braces.pop()
                if is_box and begin > start:
                    start, stop = begin, token.start()
        elif symbol[0] != "\\":
            open_braces.append((token.end(), symbol != "{"))
    return text[start:stop] if start >= 0 else None


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone, and is uniform over texts: to divide data into fixed parts."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64


def shortened(text: str, length: int = 60) -> str:
    """The text in quotes, cut where it is longer than `length`; line breaks are written as escapes."""
    return repr(text if len(text) <= length else f"{text[: length - 3]}...")


def kind_of(value: object) -> str:
    """What a value of a data set is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), f"the number {value}" if isinstance(value, (int, float)) else type(value).__name__)


def install_extra(extra: str) -> str:
    """How to install the optional dependencies `extra`, for an error message: the package is not on PyPI."""
    return f"run pip install -e '.[{extra}]' in the root of the clone, or pip install 'WHEEL[{extra}]' with your wheel"


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like `name`, or None where the similarity is below the cutoff, from 0 to 1."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message, ` (did you mean X?)`; empty where no known name is like `name`."""
    near = nearest(name, known)
    return f" (did you mean {near}?)" if near is not None else ""


def python_process(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of a process that runs a module of this package, on one thread.

    It imports the same code as its parent, and nothing from the current directory. Its hash seed is fixed, so that the
    order of sets of text is the same in every process: sympy's verdicts and reasoning-gym's problems depend on it.
    """
    paths = [*(str(Path(path).resolve()) for path in sys.path), str(Path(__file__).resolve().parents[1])]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    fixed = {**threads, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONHASHSEED": "0"}
    return [sys.executable, "-P", "-m", module, *arguments], {**os.environ, **fixed}
