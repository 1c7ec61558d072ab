"""Fills .venv for the Makefile: the Python packages, the Rust core, the vocabularies that some tests read.

Standard library only: it runs before anything is installed. It knows nothing of matrix itself beyond pyproject.toml.
A command writes its stamp as its last act, so that an interrupted set-up is done again.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from importlib.metadata import version
from pathlib import Path

from check import ANOTHER_PYTHON, SetupError, check, output_of

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
VOCAB = VENV / "share" / "vocab"

PROGRESS_S = 20
# Relative to ROOT, where every command runs: PIP_CONSTRAINT would split a path that holds a space.
CONSTRAINTS = "constraints.txt"
PIP = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
# What builds llama.cpp (scikit-build-core, and cmake and ninja where the machine has none) is pinned too. The option is
# new in pip 25.3, and PIP_CONSTRAINT did the same only before that: hence the pinned pip.
PINNED = ["-c", CONSTRAINTS, "--build-constraint", CONSTRAINTS]


class PipError(SetupError):
    """pip failed; `tail` is the end of what it printed."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


def say(text: str) -> None:
    """Print one line at once, also through a pipe."""
    print(f"set-up: {text}", flush=True)


# --- pip


def clock(seconds: float) -> str:
    """Format a duration as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def pip(*arguments: str) -> None:
    """Run .venv's pip into the log, and say every 20 s how far it is.

    Raises:
        PipError: pip failed.
    """
    start = time.monotonic()
    due = start + PROGRESS_S
    with LOG.open("a+", encoding="utf-8", errors="replace") as log:
        begin = log.seek(0, os.SEEK_END)
        process = subprocess.Popen([*PIP, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() >= due:
                    due += PROGRESS_S
                    say(f"{clock(time.monotonic() - start):>6}  {pip_progress(read_from(begin))}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        printed = read_from(begin)
        message = f"{pip_failure(printed)} (all of it: {LOG.relative_to(ROOT)})"
        raise PipError(message, tail="\n".join(printed.splitlines()[-20:]))


def read_from(begin: int) -> str:
    """Return the log from a position on."""
    with LOG.open("rb") as log:
        log.seek(begin)
        return log.read().decode(errors="replace")


def pip_progress(printed: str) -> str:
    """Say what pip is at: ninja's count while llama.cpp compiles, else pip's own last step."""
    steps = re.findall(r"^ *((?:Collecting|Downloading|Building|Installing|Preparing) .*)", printed, re.MULTILINE)
    last = steps[-1].strip() if steps else "waiting for pip"
    if "Building wheel" in last and (counts := re.findall(r"^ *\[(\d+)/(\d+)\] ", printed, re.MULTILINE)):
        return "compiling llama.cpp (once, about 6 minutes on 2 cores): {} of {}".format(*counts[-1])
    return last[:90]


def pip_failure(printed: str) -> str:
    """Say why pip failed; without a connection its own last words are of conflicting versions."""
    if "Retry(total=0," in printed:
        return "pip cannot reach the package index: look at the network, or at pip's own settings (pip config list)"
    error = re.search(r"^ *ERROR: (.*)", printed, re.MULTILINE)
    return f"pip: {error[1]}" if error else "pip failed"


# --- deps


def make_venv(fresh: bool) -> None:
    """Make .venv with the Python that runs this file, unless a usable one is there."""
    if not fresh and output_of([*PIP, "--version"]) is not None:
        return
    say(f"making .venv with Python {platform.python_version()}")
    if output_of([sys.executable, "-m", "venv", "--clear", str(VENV)]) is None:
        raise SetupError(f"{sys.executable} -m venv .venv failed: run it to see why, or {ANOTHER_PYTHON}")


def requirements(*extras: str) -> list[str]:
    """Return the project's dependencies with those of the extras, which may name one another."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = list(project["dependencies"])
    for extra in extras:
        for item in project["optional-dependencies"][extra]:
            own = re.fullmatch(re.escape(project["name"]) + r"\[([\w, -]+)\]", item)
            wanted += requirements(*own[1].replace(" ", "").split(",")) if own else [item]
    return sorted(set(wanted))


def deps(fresh: bool) -> None:
    """Make .venv and install what the project and its tests need, at the pinned versions."""
    check()
    make_venv(fresh)
    LOG.unlink(missing_ok=True)
    start = time.monotonic()
    say("installing Python packages")
    pip("install", "-c", CONSTRAINTS, "--upgrade", "pip")
    # pip's cache knows nothing of CMAKE_ARGS: it would hand back a llama.cpp built without them, or keep this one.
    cache = ["--no-cache-dir"] if os.environ.get("CMAKE_ARGS") else []
    pip("install", "-v", *cache, *PINNED, *requirements("dev"))
    say(f"Python packages installed in {clock(time.monotonic() - start)}")
    # Read by the Makefile, to see a moved checkout or another PYTHON.
    made_with = output_of([str(VENV_PYTHON), "-c", "import platform; print(platform.python_version())"])
    (VENV / ".made").write_text(f"|{ROOT}|{(made_with or '').strip()}|\n", encoding="utf-8")
    (VENV / ".deps").touch()


# --- train


def train() -> None:
    """Install what training needs besides: torch, of 3 GB with its CUDA libraries, and what stands on it."""
    say("installing torch and what trains with it (3 GB)")
    start = time.monotonic()
    pip("install", "-v", *PINNED, *requirements("train"))
    say(f"torch and the rest installed in {clock(time.monotonic() - start)}")
    (VENV / ".train").touch()


# --- core


def core() -> None:
    """Build the Rust core into the checkout and install matrix into .venv, editable."""
    check()
    # maturin refuses to choose between a conda environment and .venv; its pip only finds that all is there.
    env = {name: value for name, value in os.environ.items() if name != "CONDA_PREFIX"}
    env |= {"VIRTUAL_ENV": str(VENV), "PIP_CONSTRAINT": CONSTRAINTS, "PIP_QUIET": "1"}
    say("building the Rust core")
    start = time.monotonic()
    command = [str(VENV_PYTHON), "-m", "maturin", "develop", "--release", "--locked"]
    if status := subprocess.run(command, stdin=subprocess.DEVNULL, cwd=ROOT, env=env, check=False).returncode:
        raise SetupError(f"maturin develop failed (exit {status}): its message stands above")
    say(f"Rust core built in {clock(time.monotonic() - start)}")
    (VENV / ".core").touch()


# --- vocab


def vocab() -> None:
    """Take the vocabularies out of llama-cpp-python's source distribution, of the version that is installed.

    Runs under .venv's Python. Failing is no error: the tests that read them are skipped.
    """
    installed = version("llama-cpp-python")
    stamp = VOCAB / "VERSION"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8").strip() != installed:
        say(f"fetching the test vocabularies of llama-cpp-python {installed}")
        shutil.rmtree(VOCAB, ignore_errors=True)
        try:
            fetch_vocabularies(installed)
        except (SetupError, OSError, tarfile.TarError) as error:
            say(f"warning: no vocabularies, so the tests that read them are skipped: {error}")
            return
        stamp.write_text(installed + "\n", encoding="utf-8")
    (VENV / ".vocab").touch()


def fetch_vocabularies(installed: str) -> None:
    """Download the source distribution, and move its models/ggml-vocab-*.gguf to VOCAB once all are there."""
    with tempfile.TemporaryDirectory(dir=VENV) as name:
        folder = Path(name)
        what = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={installed}"]
        pip("download", "--retries", "1", *PINNED, "-d", name, *what)
        found = folder / "vocab"
        found.mkdir()
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            for member in archive:
                path = Path(member.name)
                if path.match("vendor/llama.cpp/models/ggml-vocab-*.gguf") and (source := archive.extractfile(member)):
                    with (found / path.name).open("wb") as target:
                        shutil.copyfileobj(source, target)
        VOCAB.parent.mkdir(exist_ok=True)
        found.rename(VOCAB)


def main() -> int:
    """Run one command; a failure is one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["deps", "train", "core", "vocab"])
    parser.add_argument("--fresh", action="store_true", help="deps: make .venv anew")
    options = parser.parse_args()
    # As an exception, so that the pip under way is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        match options.command:
            case "deps":
                deps(options.fresh)
            case "train":
                train()
            case "core":
                core()
            case "vocab":
                vocab()
    except SetupError as error:
        if isinstance(error, PipError):
            print(error.tail, file=sys.stderr)
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the next make goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
