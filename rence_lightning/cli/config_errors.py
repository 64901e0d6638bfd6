"""What jsonargparse reports of a setting, in one line: the only place that depends on the wording of its messages.

It reports all attempts to read a value of several types on a page; the innermost line tells what is wrong, and is kept.
"""

import inspect
import re
import sysconfig
import traceback

from rence_lightning.cli.keys import bases, exported_classes, find_class, fitting_classes, key_type, missing_methods
from rence_lightning.cli.settings import Settings
from rence_lightning.errors import PACKAGE, UserError, did_you_mean

LONGEST = 300
WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "list": "a list",
    "dict": "settings (KEY: VALUE)",
}
"""Types of settings, as messages call them."""
KEY = re.compile(r"""Parser key "([^"]+)":|Group '([^']+)' does not|ption '([^']+)'|^Key "([^"]+)" is required""")
FRAME = re.compile(
    r"$|Parser key \"[^\"]+\":$|Problem with given class_path|Does not validate|Subtypes:|Errors:|Given value|"
    r"Expected a path but|Expected a <class 'NoneType'>|Subclass types expect|a class path \(str\)|a dict "
)
NOISE = re.compile(
    r"^Type [\w.]*Callable.*? class: |^Call to compute_fn .* failed: |^Parser key \"[^\"]+\":|"
    r"\.* Got value: Namespace\(.*"
)
LIBRARIES = (
    "<",
    str(PACKAGE),
    *(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib")),
)
"""How the files of code that is not the user's begin."""


def origin(error: BaseException) -> str:
    """The end of a message: the line of the user's code that raised the error, or its cause; empty if none did."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = [each for each in traceback.extract_tb(error.__traceback__) if not each.filename.startswith(LIBRARIES)]
    place = (frames[-1].filename, frames[-1].lineno, frames[-1].line) if frames else None
    if isinstance(error, SyntaxError):  # raised by the import of the file that it is about
        place = (str(error.filename), error.lineno, (error.text or "").strip())
    if place is None or isinstance(error, UserError):
        return ""
    return f" ({type(error).__name__} in {place[0]}, line {place[1]}: {place[2]})"


def explain(message: str, settings: Settings) -> str:
    """The one line that tells what a message of jsonargparse reports on settings."""
    found = [next(filter(None, groups)) for line in message.splitlines() for groups in KEY.findall(line.strip("- "))]
    key, text = ".".join(dict.fromkeys(found)), _telling_line(message)
    if unknown := re.fullmatch(r"Expected a dot import path string: (\w+)(?: \(did you mean \w+\?\))?", text):
        fitting, kind = fitting_classes(key), next((each.__name__ for each in bases(key_type(key))), "class")
        choice = f" (choose from {', '.join(fitting)}, or give an import path)" if fitting else ""
        near = did_you_mean(unknown[1], fitting or exported_classes())
        text = f"there is no such {kind}: {unknown[1]}{near or choice}"
    text = re.sub(r"Expected a <class '(\w+)'>", lambda found: f"expected {WORDS.get(found[1], found[1])}", text)
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return settings.where(key) + (f"{key}: {text}" if key else text)


def _telling_line(message: str) -> str:
    """The innermost lines of a message that are no frame around others, as one."""
    lines = [(len(line) - len(line.lstrip(" -")), line.lstrip(" -").rstrip()) for line in message.splitlines()]
    lines = [(depth, NOISE.sub("", line).strip()) for depth, line in lines]
    telling = [(depth, line) for depth, line in lines if not FRAME.match(line)]
    if not telling:
        return " ".join(message.split())
    innermost = max(depth for depth, _ in telling) if "class_path '" in message else None
    text = "; ".join(dict.fromkeys(line for depth, line in telling if innermost in (None, depth)))
    given = re.search(r"Given value: ([^\s{\[(]\S{0,79}?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    if given is not None and text.startswith(("Expected a <", "Import path does")) and "Got value" not in text:
        text += f". Got value: {given[1]}"
    if (part := re.search(r"Problem with given class_path '(?:[\w.]+\.)?(\w+)'", message)) and "attribute" not in text:
        text = f"{part[1]}: {text}"
    return text + _hint(text, message)


def _hint(text: str, message: str) -> str:
    """What may have been meant: a setting of the class, another class, or a way to name a function."""
    named = re.findall(r"class_path[ =]'([\w.]+)'", message)
    kind = find_class(named[-1]) if named else None
    if (unknown := re.search(r"[Oo]ption '([\w.]+)' is not accepted", text)) and kind is not None:
        known = [*inspect.signature(kind).parameters, "init_args", "class_path"]
        return did_you_mean(unknown[1].partition(".")[0], known)
    if other := re.search(r"(?:has no attribute '|Expected a dot import path string: )(\w+)(?:'|$)", text):
        return did_you_mean(other[1], exported_classes())
    wanted = re.search(r"does not (?:implement protocol|correspond to a subclass of) (\w+)", text)
    given = re.search(r"(?:Got value:|Import path(?! does)) ([\w.]+)", text)
    if wanted is None or given is None:
        return ""
    kind, base = find_class(given[1]), exported_classes().get(wanted[1])
    if inspect.isfunction(kind) and wanted[1] == "Reward":
        options = f"--data.reward FunctionReward --data.reward.function {given[1]}"
        return f" (it is a function: give {options}, or in Python the function itself)"
    if base is None or not getattr(base, "_is_protocol", False):
        return ""
    if lacking := missing_methods(kind, base):
        return f": it lacks {', '.join(lacking)}"
    unlike = ", ".join(missing_methods(kind, base, typed=True))
    return f": the parameters or types of {unlike} differ, or are not written"
