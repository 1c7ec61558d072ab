"""What matrix finds out about models and keeps for later, in the user's cache folder."""

import os
from pathlib import Path


def cache_entry(folder: str, name: str) -> Path | None:
    """Return the file that keeps what goes by a name, or None where there is no home for it."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home folder
        return None
    return home / "matrix" / folder / f"{name}.json"


def keep(entry: Path | None, content: bytes) -> None:
    """Write an entry. Where that is not possible, such as in a read-only home or on a full disk, it is found out again next time."""
    if entry is None:
        return
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        draft = entry.with_suffix(f".{os.getpid()}")  # readers and other writers never see half a file
        draft.write_bytes(content)
        draft.replace(entry)
    except OSError:
        pass
