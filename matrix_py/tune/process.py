"""The process of its own that trains: `python -m matrix_py.tune.process FOLDER`, or the same under `accelerate launch`.

It reads the job in the folder and says on standard output how it goes. It ends when its standard input does: whoever started it is
gone then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from typing import BinaryIO

import msgspec

from matrix_py.errors import ConfigError, MatrixError, TuningError
from matrix_py.tune.job import read_job
from matrix_py.tune.messages import AnyMessage, Failed

EXIT_FAILED = 2
NO_LIBRARIES = "tuning needs torch, transformers, trl and peft, and {} is not installed: pip install 'matrix-py[train]'"


def main(folder: Path) -> int:
    """Do the job of a folder; returns the exit code."""
    out = _own_output()

    def tell(message: AnyMessage) -> None:
        out.write(msgspec.json.encode(message) + b"\n")
        out.flush()

    threading.Thread(target=_end_with_parent, daemon=True).start()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    # Before the libraries are imported: nobody is told that they are used, and what they have to say is for programmers.
    os.environ |= {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
    warnings.simplefilter("ignore")
    try:
        job = read_job(folder)
        if job is None:
            raise TuningError(f"folder {folder} holds no job: begin with matrix tune")
        from matrix_py.tune.training import train

        train(folder, job, tell, stopping=stop.is_set)
    except MatrixError as error:
        tell(Failed(text=str(error)))
        return EXIT_FAILED
    except ModuleNotFoundError as error:
        tell(Failed(text=str(ConfigError(NO_LIBRARIES.format(error.name)))))
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("MATRIX_DEBUG"):
            raise
        tell(Failed(text=_reason(error)))
        return EXIT_FAILED
    return 0


def _own_output() -> BinaryIO:
    """Keep standard output for messages; what libraries print goes to standard error."""
    own = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(own, "wb")


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(EXIT_FAILED)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "out of memory" in text.lower() or "can't allocate memory" in text:
        return (
            "training ran out of memory: give less of --max-tokens or --batch, or --gradient-checkpointing, or --qlora where there is a "
            "GPU; that is another tuning, with another --out"
        )
    return f"training failed with {type(error).__name__}: {text[:500]}; matrix --debug tune ... shows where"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
