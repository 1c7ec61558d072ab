"""What is said over a log's socket: a request, and an answer of a header, Arrow IPC bytes, and a word on how it ended.

Each frame is a letter, a length of four bytes (big-endian) and so many bytes: `Q` a request, `H` a header, `B` bytes of an Arrow stream,
`D` done, `E` a failure. An answer without `D` or `E` was cut off.
"""

import socket
import struct
from typing import Any, Literal

import msgspec

VERSION = 1
# Of an answer to a running run: what a reader gets unasked, and what it may ask for.
DEFAULT_MAX_ROWS = 100_000
MAX_ROWS = 1_000_000
DEFAULT_TIMEOUT_S = 10.0
MAX_TIMEOUT_S = 60.0
# Of a request: nobody writes such SQL.
_MAX_REQUEST_BYTES = 1 << 20
_HEAD = struct.Struct(">cI")
_PIECE_BYTES = 1 << 20

Tag = Literal[b"Q", b"H", b"B", b"D", b"E"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One SQL statement about a log."""

    version: int = VERSION
    log: str
    statement: str
    parameters: list[Any] | dict[str, Any]
    max_rows: int
    timeout_s: float


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What comes before the rows.

    Attributes:
        pid: the process that writes the log.
        columns: names of the columns, as asked for: the Arrow stream's own are made distinct.
    """

    pid: int
    columns: list[str]


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no answer, or no whole one."""

    kind: Literal["sql", "refused", "timeout", "rows", "memory", "busy"]
    message: str = ""


class CutOffError(Exception):
    """The other end is gone in the middle of what it had to say."""


def send(connection: socket.socket, tag: Tag, content: bytes = b"") -> None:
    """Send a frame.

    Raises:
        OSError: the other end is gone, or does not read (TimeoutError).
    """
    connection.sendall(_HEAD.pack(tag, len(content)))
    connection.sendall(content)


def send_message(connection: socket.socket, tag: Tag, message: msgspec.Struct) -> None:
    """Send a frame with a message.

    Raises:
        OSError: the other end is gone, or does not read (TimeoutError).
    """
    send(connection, tag, msgspec.msgpack.encode(message))


def receive(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return the letter and the content of the next frame.

    Raises:
        CutOffError: the other end is gone.
        TimeoutError: it is silent.
    """
    tag, length = _HEAD.unpack(_exactly(connection, _HEAD.size))
    return tag, _exactly(connection, length)


def receive_request(connection: socket.socket) -> Request:
    """Return the request of a new connection.

    Raises:
        CutOffError: the other end is gone.
        TimeoutError: it is silent.
        msgspec.MsgspecError: what came is no request, or one of another version.
    """
    tag, length = _HEAD.unpack(_exactly(connection, _HEAD.size))
    if tag != b"Q" or length > _MAX_REQUEST_BYTES:
        raise msgspec.ValidationError(f"no request: {tag!r} of {length} bytes")
    request = msgspec.msgpack.decode(_exactly(connection, length), type=Request)
    if request.version != VERSION:
        raise msgspec.ValidationError(f"a request of version {request.version}, not {VERSION}")
    return request


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        try:
            piece = connection.recv(min(length - len(content), _PIECE_BYTES))
        except TimeoutError:
            raise
        except OSError as error:
            raise CutOffError from error
        if not piece:
            raise CutOffError
        content += piece
    return bytes(content)
