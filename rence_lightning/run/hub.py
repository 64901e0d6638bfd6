"""The Hugging Face hub: the checks that an upload will be possible, before the run that it follows, and the upload."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rence_lightning import __version__
from rence_lightning.errors import UserError, one_line

REPLACED = ["*.safetensors", "*.safetensors.index.json", "adapter_config.json"]
"""Files of an earlier upload that are removed from the repository: shards of another number would be loaded as well."""

LONGEST_REASON = 300


def check_repository_name(name: str) -> None:
    """Checks the form of a repository's name, without a network.

    Args:
        name: Name of the repository, as `user/name`.

    Raises:
        UserError: It is not of this form, or contains characters that the hub does not allow.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1:
        raise UserError(f"push_to_hub: {name!r} is not the name of a repository; give it as user/name")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"push_to_hub: {one_line(error)}; give another name as user/name") from error


def prepare_repository(name: str, private: bool) -> None:
    """Creates a repository unless it exists, and checks that the token may write to it.

    Only the hub can tell whether a token may do so. A run therefore creates its repository at its start.

    Args:
        name: Name of the repository, as `user/name`.
        private: Whether a repository that is created is private; an existing one stays as it is.

    Raises:
        UserError: There is no token, the hub refuses it, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token

    check_repository_name(name)
    if get_token() is None:
        raise UserError("push_to_hub: there is no token of the hub; set HF_TOKEN, or run: hf auth login")
    with _explained(name):
        api = HfApi()
        api.create_repo(name, private=private, exist_ok=True)
        api.auth_check(name, write=True)


def push_folder(folder: Path, name: str, private: bool) -> str:
    """Uploads an exported policy, in place of one that the repository holds already.

    Args:
        folder: Folder in the Hugging Face format.
        name: Name of the repository, as `user/name`.
        private: Whether a repository that is created is private; an existing one stays as it is.

    Returns:
        The address of the repository.

    Raises:
        UserError: The upload is not possible or failed; the folder is unchanged.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    prepare_repository(name, private)
    if not sys.stderr.isatty():  # a file would hold every step of the bars
        disable_progress_bars()
    with _explained(name):
        api = HfApi()
        message = f"Policy exported by rence_lightning {__version__}"
        api.upload_folder(folder_path=folder, repo_id=name, commit_message=message, delete_patterns=REPLACED)
    return f"{api.endpoint}/{name}"


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turns whatever an exchange with the hub raises into an error of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub's client passes on errors of several HTTP and storage libraries
        status = getattr(getattr(error, "response", None), "status_code", None)
        refusals = {
            401: "the hub does not know the token; set HF_TOKEN to another, or run: hf auth login --force",
            403: f"the token may not write to {name}; use one with write access to {name.partition('/')[0]}",
            404: f"the hub has no user, organisation or repository of this name: {name}; correct the name",
        }
        reason = refusals.get(status) if isinstance(status, int) else None
        if reason is None:
            reason = f"{type(error).__name__}: {one_line(error)[:LONGEST_REASON]}; check the network and try again"
        raise UserError(f"push_to_hub: {reason}") from error
