"""Where the process that writes a log and those that want to read it meet: a Unix socket in a folder that is the user's alone."""

import contextlib
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from matrix_py import _core
from matrix_py.errors import StoreError

# Of a socket's path: 104 bytes are the least that a system allows, one of them ends it.
_MAX_PATH_BYTES = 103
_NAME_DIGITS = 24
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def folders() -> Iterator[Path]:
    """Yield the folders where a log's socket may lie, the one for a writer first.

    A reader looks into all of them, since its environment may be another than the writer's: a job of cron has no XDG_RUNTIME_DIR.
    """
    user = os.getuid()
    given = os.environ.get("XDG_RUNTIME_DIR")
    runtime = [Path(given)] if given else []
    if sys.platform == "linux":
        runtime.append(Path(f"/run/user/{user}"))
    for folder in dict.fromkeys(runtime):
        if folder.is_absolute() and folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
            yield folder / "matrix"
    yield Path(tempfile.gettempdir()) / f"matrix-{user}"


def socket_path(folder: Path, log: Path) -> Path:
    """Return the path of a log's socket in a folder: short, since systems allow about a hundred bytes."""
    digest = _core.blake3(os.fsencode(log.resolve())).hex()
    return folder / f"{digest[:_NAME_DIGITS]}.sock"


def check_folder(folder: Path) -> None:
    """Refuse a folder in which somebody else could put a socket.

    Raises:
        StoreError: it is no folder, is not the user's, or others may write there.
        FileNotFoundError: it does not exist.
    """
    found = folder.lstat()  # not `stat`: a link could lead anywhere
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{folder} is no folder: remove it")
    if found.st_uid != os.getuid():
        raise StoreError(f"folder {folder} belongs to user {found.st_uid}: remove it, or set XDG_RUNTIME_DIR to a folder of yours")
    if found.st_mode & 0o022:
        raise StoreError(f"folder {folder} can be written by others (mode {stat.S_IMODE(found.st_mode):o}): chmod 700 it")


def listen(log: Path) -> tuple[socket.socket, Path]:
    """Make a log's socket, and return it with its path. Whoever calls this holds the log, so what lies there is left from a killed run.

    Raises:
        StoreError: the folder is not the user's alone, or the path is too long.
        OSError: the folder or the socket cannot be made.
    """
    folder = next(folders())
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_folder(folder)
    folder.chmod(0o700)
    path = socket_path(folder, log)
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise StoreError(f"socket {path} has a name of more than {_MAX_PATH_BYTES} bytes: set XDG_RUNTIME_DIR to a shorter folder")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener, path


def exists(log: Path) -> bool:
    """Whether there is a socket for a log, be it one that a killed run has left."""
    return any(socket_path(folder, log).exists() for folder in folders())


def connect(log: Path, *, timeout_s: float) -> socket.socket | None:
    """Return a connection to the process that writes a log; None where no such process listens.

    Raises:
        TimeoutError: it listens, but does not take the connection.
        StoreError: what listens there is another user's.
    """
    for folder in folders():
        path = socket_path(folder, log)
        try:
            check_folder(folder)
        except (OSError, StoreError):
            continue
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(path))
            if not is_ours(connection):
                raise StoreError(f"socket {path} of log {log} is held by another user: remove it")
        except TimeoutError:
            connection.close()
            raise
        except OSError:  # no socket, or one that is left from a killed run
            connection.close()
            continue
        except BaseException:
            connection.close()
            raise
        return connection
    return None


def is_ours(connection: socket.socket) -> bool:
    """Whether the other end is a process of the same user. Where the system does not say, the modes of folder and socket must do."""
    if sys.platform != "linux":
        return True
    _, user, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return bool(user == os.getuid())
