"""From what the user names as a model to a GGUF file on this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from matrix_py.embedded import EMBEDDED, MODEL
from matrix_py.errors import ModelError

HUB_PREFIX = "hf:"
MAGIC = b"GGUF"

_USAGE = "write hf:OWNER/REPO/FILE.gguf or hf:OWNER/REPO/FILE.gguf@REVISION"
_SPLIT = re.compile(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf")
# Only keeps a mistyped name from starting 99,999 downloads: real models have a few dozen parts at most.
_MAX_PARTS = 999


@dataclass(frozen=True, slots=True)
class _HubFile:
    """A file in a repository of a model hub."""

    repo_id: str
    filename: str
    revision: str | None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return f"{self.repo_id}/{self.filename}{at}"


def resolve(spec: str) -> Path:
    """Return the GGUF file that `spec` names, downloading it if it names one on a hub.

    Args:
        spec: a local path, or `embedded`, or `hf:owner/repo/path/in/repo/file.gguf[@revision]`. Downloads go through
            `huggingface_hub`, into its cache, and honour HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE. Of a split
            model (`-00001-of-00003.gguf`) any part may be named.

    Returns:
        A file that starts with the GGUF magic; of a split model its first part, with the others beside it.

    Raises:
        ModelError: the file is missing, unreadable, empty or no GGUF; or the hub does not have it, refuses it or cannot
            be reached.
    """
    if spec == EMBEDDED:
        paths = [MODEL]
    elif spec.startswith(HUB_PREFIX):
        file = _parse(spec)
        paths = [_download(_HubFile(file.repo_id, name, file.revision)) for name in split_parts(file.filename)]
    else:
        path = Path(spec)
        paths = [path.with_name(name) for name in split_parts(path.name)] if path.name else [path]
    for path in paths:
        check_gguf(path)
    return paths[0]


def resolve_repository(spec: str, patterns: list[str]) -> Path:
    """Return a folder with the files of a repository on a hub, downloading those that are not in the cache of `huggingface_hub`.

    Args:
        spec: `owner/repo` or `owner/repo@revision`.
        patterns: which files, such as `*.json`.

    Raises:
        ModelError: the hub does not have it, refuses it or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    name, _, revision = spec.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # as in `_download`
        msg = f"model {spec!r} cannot be fetched: {_cause(error, _HubFile(name, '', revision or None))}"
        raise ModelError(msg) from error


def is_path(spec: str) -> bool:
    """Whether `spec` names a place on this machine: the others name the same model wherever it is."""
    return spec != EMBEDDED and not spec.startswith(HUB_PREFIX)


def check_gguf(path: Path) -> None:
    """Check that `path` is a readable file that starts with the GGUF magic.

    Raises:
        ModelError: it is not.
    """
    try:
        if path.is_dir():
            msg = f"model {str(path)!r} is a folder: name the .gguf file in it"
            raise ModelError(msg)
        with path.open("rb") as file:
            magic = file.read(len(MAGIC))
    except FileNotFoundError:
        msg = f"model {str(path)!r} does not exist: give the path of a GGUF file, or {_USAGE}"
        raise ModelError(msg) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        reason = error.strerror if isinstance(error, OSError) else error
        msg = f"model {str(path)!r} cannot be read ({reason}): check the path"
        raise ModelError(msg) from None
    if not magic:
        msg = f"model {str(path)!r} is empty: download it again"
        raise ModelError(msg)
    if magic != MAGIC:
        msg = f"model {str(path)!r} is no GGUF file (it starts with {magic!r}): convert it with convert_hf_to_gguf.py"
        raise ModelError(msg)


def split_parts(name: str) -> list[str]:
    """Return the names of all parts of the model that the file `name` belongs to: of a model in one file, `[name]`."""
    match = _SPLIT.fullmatch(name)
    if match is None or not 1 <= int(match["part"]) <= int(match["count"]) <= _MAX_PARTS:
        return [name]
    return [f"{match['stem']}-{part:05d}-of-{match['count']}.gguf" for part in range(1, int(match["count"]) + 1)]


def printable(text: object) -> str:
    """Return the first line of a text from a file or a server, without control characters: safe to print."""
    line = next(iter(str(text).strip().splitlines()), type(text).__name__)
    return "".join(char if char.isprintable() else "?" for char in line).rstrip(".")[:200]


def _parse(spec: str) -> _HubFile:
    name, revision = spec.removeprefix(HUB_PREFIX), None
    if not name.endswith(".gguf"):  # an @ may also stand inside a file name
        name, _, revision = name.rpartition("@")
    parts = PurePosixPath(name).parts
    if len(parts) < 3 or not name.endswith(".gguf") or revision == "" or ".." in parts or name.startswith("/"):
        msg = f"model {spec!r} names no file on a hub: {_USAGE}"
        raise ModelError(msg)
    return _HubFile("/".join(parts[:2]), "/".join(parts[2:]), revision)


def _download(file: _HubFile) -> Path:
    # Imported here: it takes a third of a second, and a local model needs none of it.
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(file.repo_id, file.filename, revision=file.revision))
    except Exception as error:  # its own errors, its HTTP client's, OSError, ValueError: whatever it is, there is no file
        msg = f"model {f'{HUB_PREFIX}{file}'!r} cannot be fetched: {_cause(error, file)}"
        raise ModelError(msg) from error


def _cause(error: Exception, file: _HubFile) -> str:
    """Say why a download failed, with the remedy."""
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    status = _status(error)
    # The order matters: GatedRepoError is a RepositoryNotFoundError, and most of them carry the status 401, 403 or 404.
    match error:
        case errors.HFValidationError():
            return f"{file.repo_id!r} is no repository name: {_USAGE}"
        case errors.GatedRepoError():
            return f"{hub} asks for permission first: accept the model's terms there and set HF_TOKEN"
        case errors.RepositoryNotFoundError():
            return f"{hub} shows no repository {file.repo_id!r}: check the name; if it is private, set HF_TOKEN"
        case errors.RevisionNotFoundError():
            return f"{file.repo_id} has no revision {file.revision!r}: name a branch, tag or commit"
        case errors.RemoteEntryNotFoundError():
            return f"{file.repo_id} has no file {file.filename!r}: check the repository's list of files"
    if status in {401, 403}:
        return f"{hub} refused access (status {status}): set HF_TOKEN to a token that may read it"
    if constants.HF_HUB_OFFLINE:
        return "it is not in the local cache and HF_HUB_OFFLINE is set: unset it, or download the file first"
    if isinstance(error, errors.LocalEntryNotFoundError):
        detail = printable(error.__cause__ or error)
        return f"no answer from {hub} ({detail}) and it is not in the local cache: check the network and HF_ENDPOINT"
    return f"{printable(error)}: try again, or download the file by hand"


def _status(error: BaseException) -> int | None:
    """Return the HTTP status behind an error of huggingface_hub, which wraps some answers in another error."""
    response = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    status = getattr(response, "status_code", None)
    return status if isinstance(status, int) else None
