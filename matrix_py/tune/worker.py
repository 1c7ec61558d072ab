"""Running the process that trains, from outside: its messages, its end, and what is said where it ends badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from matrix_py.errors import ConfigError, TuningError
from matrix_py.models.hub import printable
from matrix_py.tune.job import Job, checkpoint_step, last_checkpoint
from matrix_py.tune.messages import AnyMessage, Failed, Finished, decode
from matrix_py.tune.process import NO_LIBRARIES

LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "gguf", "matplotlib")
_MODULE = "matrix_py.tune.process"
LIBRARY_LOG = "libraries.log"


def check_libraries() -> None:
    """Refuse where the libraries that train are not installed; none of them is imported.

    Raises:
        ConfigError: one is missing.
    """
    from importlib.util import find_spec

    for name in LIBRARIES:
        if find_spec(name) is None:
            raise ConfigError(NO_LIBRARIES.format(name))


def run_job(folder: Path, job: Job, on_message: Callable[[AnyMessage], None]) -> Finished:
    """Do a job in a process of its own, or in several.

    Ctrl-C has it write a checkpoint and end; a second one ends it at once, and so does the end of this process.

    Args:
        folder: the job's, with its rows.
        job: the job.
        on_message: told how it goes.

    Raises:
        TuningError: training failed, or was ended from outside.
        KeyboardInterrupt: at the second Ctrl-C.
    """
    package = str(Path(__file__).parents[2])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in (package, os.environ.get("PYTHONPATH")) if entry)}
    log = folder / LIBRARY_LOG
    with log.open("wb") as errors:
        # A new interpreter, never a fork, in a group of its own: Ctrl-C reaches this process alone.
        process = subprocess.Popen(
            _command(folder, job),
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("MATRIX_DEBUG") else errors,
            start_new_session=True,
        )
    assert process.stdout is not None  # as asked for
    ending: Failed | Finished | None = None
    with process:
        try:
            ending = _listen(process, process.stdout, on_message, several=job.options.processes > 1)
            process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if isinstance(ending, Finished):
        return ending
    raise TuningError(_kept(folder, ending.text if ending is not None else _death(process.returncode, log)))


def _command(folder: Path, job: Job) -> list[str]:
    own = [_MODULE, str(folder.absolute())]
    options = job.options
    # -P: a file of the folder that somebody works in must not pass for a module of Python's.
    if options.processes == 1:
        return [sys.executable, "-P", "-m", *own]
    # What it calls several GPUs is several processes, with a GPU each where there are some.
    launch = ["--multi_gpu", "--num_processes", str(options.processes), "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    return [sys.executable, "-P", "-m", "accelerate.commands.launch", *launch, "--module", *own]


def _listen(
    process: subprocess.Popen[bytes], source: BinaryIO | object, on_message: Callable[[AnyMessage], None], *, several: bool
) -> Failed | Finished | None:
    ending: Failed | Finished | None = None
    interrupted = False
    while True:
        try:
            for line in process.stdout or ():
                message = decode(line)
                if isinstance(message, Failed | Finished):
                    ending = ending or message
                elif message is not None:
                    on_message(message)
        except KeyboardInterrupt:
            # Several would end at different steps.
            if interrupted or several:
                raise
            interrupted = True
            process.terminate()
        else:
            return ending


def _death(code: int, log: Path) -> str:
    if code < 0:
        name = next((known.name for known in signal.Signals if known == -code), f"signal {-code}")
        why = ": probably too little memory, so give less of --max-tokens or --batch" if name == "SIGKILL" else ""
        return f"training was ended by {name}{why}"
    said = log.read_text("utf-8", errors="replace").strip().splitlines() if log.is_file() else []
    return f"training ended with code {code}: {printable(said[-1] if said else 'no message')}"


def _kept(folder: Path, text: str) -> str:
    if "--resume" in text:
        return text
    last = last_checkpoint(folder)
    return text if last is None else f"{text}; the checkpoint of step {checkpoint_step(last)} is whole: go on with --resume"
