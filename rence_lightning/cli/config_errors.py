"""What is wrong with a configuration, in one line: where it stands, which setting it is, and how to mend it.

jsonargparse knows all of this and tells it in pages: of a setting that may be a class or null it reports both attempts,
with the types tried and the values given. When it words something in a way that is unknown here, its words are kept.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from rence_lightning.cli.config_files import ConfigFiles

NOISE = re.compile(
    r"Does not validate against any|Subtypes:|Errors:|Given value|Expected a path but|Expected a <class 'NoneType'>"
    r"|Subclass types expect|a class path \(str\)|a dict with|Unable to load config '"
)
KEY = re.compile(r"""Parser key "([^"]+)":|Option '([^']+)' is not accepted|does not accept option '([^']+)'""")
REWORDED = [
    (r"Type typing\.Callable.* expects a function or a callable class: ", ""),
    (r"\.* Got value: Namespace\(.*", ""),
    (r"Parser key \"[^\"]+\":", ""),
    (r"Problem with given class_path '([^']+)':", ""),
    (r"(?:Subcommand|Group) '\S+' does not accept option '\S+'", "no such setting"),
    (r"Option '\S+' is not accepted", "no such setting"),
    (r"Expected a <class '([\w.]+)'>\.?", r"expected \1"),
    (r"Expected a typing\.Literal\[(.*?)\]\.?", r"expected one of \1"),
    (r" ?Got value: ", ", got "),
    (r"Not a valid subclass of (\w+)", r"expected the class_path of a \1"),
    (r"Import path (\S+) does not correspond to a subclass of (\w+)", r"expected a subclass of \2, got \1"),
    (r"Import path does not correspond to a subclass of (\w+)", r"expected a subclass of \1"),
    (r"Expected '(\S+)' to be a subclass of <class '(\w+)'>\.*", r"expected a subclass of \2, got \1"),
    (r"Expected a dot import path string: (\w+)$", r"there is no class \1"),
    (r"the following arguments are required: (.+)", r"needs \1"),
    (r"Unable to load config \"(.*)\"", r"expected settings, got \1"),
    (r"Call to compute_fn of link .* failed: ", ""),
    (
        r"(no viable alternative|extraneous input|mismatched input|token recognition) .*",
        "its ${...} is malformed, or names itself",
    ),
    (r'KeyError raised while resolving interpolation: "(.*)"', r"\1"),
    (r" \(resolved to '\S+'\)", ""),
    (r"nterpolation key '\.+", "nterpolation key '"),
    (r"object_type=\w+", ""),
]
MODULES = [
    *(
        f"rence_lightning.{room}"
        for room in ("objectives", "prompts", "rewards", "rollouts", "sampling", "training", "callbacks")
    ),
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
]


def explain(message: str, files: ConfigFiles) -> str:
    """The one line for what jsonargparse or OmegaConf reports of a configuration."""
    if missing := re.fullmatch(r"the following arguments are required: (.+)", message):
        names = ", ".join(_without_subcommand(name) for name in missing[1].split(", "))
        return f"missing: {names} (give a --config, for example conf/arithmetic.yaml, or options)"
    if "before subcommand" in message or 'expected "subcommand"' in message:
        return "name a subcommand, fit or validate, and then the options: python -m rence_lightning fit --config FILE"
    if interpolated := re.search(r"full_key: (\S+)", message):
        key = _without_subcommand(interpolated[1])
        message = message.replace(interpolated[0], "")
    else:
        key = ".".join(dict.fromkeys(next(filter(None, groups)) for groups in KEY.findall(message)))
    where = files.where(key) if key else None
    text = _reworded(message)
    return ": ".join(part for part in (where, key, text) if part)


def _reworded(message: str) -> str:
    """The lines that tell something, reworded, as one."""
    lines = [line.strip().removeprefix("- ").removesuffix(";") for line in message.splitlines()]
    telling = [line for line in lines if line and not NOISE.match(line)] or [line for line in lines if line]
    if any(line.startswith("Expected a <class") for line in telling):  # of a plain value, not of a class
        telling = [line for line in telling if not line.startswith("Expected a dot import path")]
    if any(line.startswith("Problem with given class_path") for line in telling):  # of a class, not of a plain value
        telling = [line for line in telling if not line.startswith("Expected a <class 'str'>")]
    class_path = re.search(r"Problem with given class_path '([^']+)'", message)
    for pattern, wording in REWORDED:
        telling = [re.sub(pattern, wording, line) for line in telling]
    text = "; ".join(dict.fromkeys(line.strip() for line in telling if line.strip()))
    text = text.replace("; expected ", " or ")
    if class_path is not None and text.startswith(("no such setting", "needs ")):
        text = f"{class_path[1].rpartition('.')[2]} " + text.replace("no such setting", "has no such setting", 1)
    given = re.search(r"^ *Given value: (\S{1,80}?)(?:\. Got value: .*)?$", message, re.MULTILINE)
    if given is not None and text.startswith("expected") and " got " not in text:
        text += f", got {given[1]}"
    return text + _nearest_class(text)


def _nearest_class(text: str) -> str:
    """What a class that does not exist may have been meant to be."""
    if missing := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        inside = vars(sys.modules[missing[1]]) if missing[1] in sys.modules else {}
        return did_you_mean(missing[2], (name for name, value in inside.items() if isinstance(value, type)))
    if missing := re.search(r"there is no class (\w+)", text):
        modules = [sys.modules[name] for name in MODULES if name in sys.modules]
        return did_you_mean(missing[1], (name for module in modules for name in getattr(module, "__all__", ())))
    return ""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing where no name is near."""
    near = get_close_matches(name, list(known), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def nearest_key(key: str, keys: Sequence[str]) -> str | None:
    """The dotted key that was meant: one beside it, in a section of a like name, or of this name in another section."""
    section, _, name = key.replace(".init_args", "").rpartition(".")
    sections = sections_of(keys)
    if section and section not in sections:
        near = get_close_matches(section, [*sections, *keys, "init_args"], n=1)
        if not near:
            return None
        inside = nearest_key(f"{near[0]}.{name}", keys) if near[0] in sections else None
        return inside if inside is not None and inside.startswith(near[0]) else near[0]
    beside = {known.rpartition(".")[2]: known for known in [*keys, *sections] if known.rpartition(".")[0] == section}
    if near := get_close_matches(name, beside, n=1):
        return beside[near[0]]
    elsewhere = {known.rpartition(".")[2]: known for known in reversed(keys)}
    near = get_close_matches(name, elsewhere, n=1, cutoff=0.85)
    return elsewhere[near[0]] if near else None


def sections_of(keys: Iterable[str]) -> list[str]:
    """What stands before the dots of dotted keys."""
    parts = [key.split(".") for key in keys]
    return sorted({".".join(names[:length]) for names in parts for length in range(1, len(names))})


def _without_subcommand(key: str) -> str:
    return re.sub(r"^(fit|validate)\.", "", key)
