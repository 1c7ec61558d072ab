"""Set-up for the Makefile: check the machine, fill .venv, build the Rust core, fetch the test vocabularies.

Standard library only: it runs before anything is installed. It knows nothing of matrix itself beyond pyproject.toml.
A command writes its stamp as its last act, so that an interrupted set-up is done again.
"""

import argparse
import importlib.util
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
LOG = VENV / "setup.log"
VOCAB = VENV / "share" / "vocab"

MIN_CARGO = (1, 88)
PROGRESS_S = 20
ANOTHER_PYTHON = "choose another Python: PYTHON=python3.12 make"
# Relative to ROOT, where every command runs: PIP_CONSTRAINT would split a path that holds a space.
CONSTRAINTS = "constraints.txt"
PIP = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input"]
# What builds llama.cpp (scikit-build-core, and cmake and ninja where the machine has none) is pinned too. The option is
# new in pip 25.3, and PIP_CONSTRAINT did the same only before that: hence the pinned pip.
PINNED = ["-c", CONSTRAINTS, "--build-constraint", CONSTRAINTS]


class SetupError(Exception):
    """Something is missing or failed; the message names it and the remedy, in one line."""


class CommandError(SetupError):
    """A command failed; `tail` is the end of what it printed."""

    def __init__(self, message: str, tail: str) -> None:
        super().__init__(message)
        self.tail = tail


def say(text: str) -> None:
    """Print one line at once, also through a pipe."""
    print(f"set-up: {text}", flush=True)


def output_of(command: Sequence[str], stdin: str = "") -> str | None:
    """Return what the command prints, or None where it is absent or fails."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, cwd=ROOT)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


# --- check


def missing_venv() -> str | None:
    """Return what to do about a Python without venv (Debian ships ensurepip apart)."""
    if all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        return None
    debian = f"apt install python{sys.version_info.major}.{sys.version_info.minor}-venv"
    return f"{sys.executable} has no venv module: install it (Debian: {debian}) or {ANOTHER_PYTHON}"


def missing_cargo() -> str | None:
    """Return what to do about an absent, broken or old Rust toolchain."""
    need = ".".join(map(str, MIN_CARGO))
    if shutil.which("cargo") is None:
        return f"no cargo on PATH: install Rust {need} or newer (rustup.rs), then open a new shell"
    printed = output_of(["cargo", "--version"])
    found = re.match(r"cargo (\d+)\.(\d+)\S*", printed or "")
    if found is None:
        return "cargo does not run: choose a toolchain with `rustup default stable`"
    if (int(found[1]), int(found[2])) < MIN_CARGO:
        return f"{found[0]} is too old: Rust {need} or newer is needed, run `rustup update stable`"
    return None


def missing_compiler(variable: str, default: str, language: str, source: str) -> str | None:
    """Return what to do about a compiler that cannot compile a line with a standard header."""
    compiler = os.environ.get(variable) or default
    command = [*shlex.split(compiler), "-x", language, "-fsyntax-only", "-"]
    if output_of(command, source) is not None:
        return None
    name = "C++" if language == "c++" else "C"
    remedy = "Debian: apt install build-essential; macOS: xcode-select --install"
    return f"no working {name} compiler ({compiler}): install one ({remedy}) or name it: {variable}=..."


def check() -> None:
    """Look for all that a build needs and cannot fetch.

    Raises:
        SetupError: with a line for each thing that is missing.
    """
    found = [
        missing_venv(),
        missing_cargo(),
        # One package brings both: one line.
        missing_compiler("CC", "cc", "c", "#include <stdlib.h>\n")
        or missing_compiler("CXX", "c++", "c++", "#include <vector>\n"),
    ]
    if missing := [line for line in found if line]:
        raise SetupError("\nset-up: ".join(missing))


# --- run


def clock(seconds: float) -> str:
    """Format a duration as m:ss."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run_logged(command: Sequence[str], progress: Callable[[str], str | None]) -> None:
    """Run a command into the log, and say every 20 s how far it is.

    Args:
        command: What to run, in the checkout.
        progress: Turns what the command has printed into a few words, or None to print nothing.

    Raises:
        CommandError: the command failed.
    """
    start = time.monotonic()
    due = start + PROGRESS_S
    with LOG.open("a+", encoding="utf-8", errors="replace") as log:
        begin = log.seek(0, os.SEEK_END)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() >= due:
                    due += PROGRESS_S
                    if words := progress(read_from(begin)):
                        say(f"{clock(time.monotonic() - start):>6}  {words}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        lines = read_from(begin).rstrip().splitlines()
        errors = [line.strip() for line in lines if "ERROR" in line] or [f"exit {process.returncode}"]
        raise CommandError(f"{errors[-1]} (all of it: {LOG.relative_to(ROOT)})", "\n".join(lines[-20:]))


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
        return "compiling llama.cpp: {} of {}".format(*counts[-1])
    return last[:90]


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
    say("installing Python packages; the first time, llama.cpp is compiled: about 6 minutes on 2 cores")
    run_logged([*PIP, "install", "-c", CONSTRAINTS, "--upgrade", "pip"], pip_progress)
    # pip's cache knows nothing of CMAKE_ARGS: it would hand back a llama.cpp built without them, or keep this one.
    cache = ["--no-cache-dir"] if os.environ.get("CMAKE_ARGS") else []
    run_logged([*PIP, "install", "-v", *cache, *PINNED, *requirements("dev")], pip_progress)
    say(f"Python packages installed in {clock(time.monotonic() - start)}")
    # Read by the Makefile, to see a moved checkout or another PYTHON.
    made_with = output_of([str(VENV_PYTHON), "-c", "import platform; print(platform.python_version())"])
    (VENV / ".made").write_text(f"|{ROOT}|{(made_with or '').strip()}|\n", encoding="utf-8")
    (VENV / ".deps").touch()


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
        VOCAB.mkdir(parents=True)
        try:
            with tempfile.TemporaryDirectory(dir=VENV) as folder:
                what = ["--no-deps", "--no-binary", "llama-cpp-python", f"llama-cpp-python=={installed}"]
                run_logged([*PIP, "download", "--retries", "1", *PINNED, "-d", folder, *what], pip_progress)
                extract_vocabularies(next(Path(folder).glob("*.tar.gz")))
        except (SetupError, OSError, tarfile.TarError, StopIteration) as error:
            shutil.rmtree(VOCAB, ignore_errors=True)
            say(f"warning: no vocabularies, so the tests that read them are skipped: {error or 'no archive'}")
            return
        stamp.write_text(installed + "\n", encoding="utf-8")
    (VENV / ".vocab").touch()


def extract_vocabularies(sdist: Path) -> None:
    """Write models/ggml-vocab-*.gguf of the archive into VOCAB, by base name."""
    with tarfile.open(sdist) as archive:
        for member in archive:
            path = Path(member.name)
            if path.match("vendor/llama.cpp/models/ggml-vocab-*.gguf") and (source := archive.extractfile(member)):
                with (VOCAB / path.name).open("wb") as target:
                    shutil.copyfileobj(source, target)


def main() -> int:
    """Run one command; a failure is one line and exit code 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["check", "deps", "core", "vocab"])
    parser.add_argument("--fresh", action="store_true", help="deps: make .venv anew")
    options = parser.parse_args()
    # As an exception, so that the pip under way is ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        match options.command:
            case "check":
                check()
            case "deps":
                deps(options.fresh)
            case "core":
                core()
            case "vocab":
                vocab()
    except SetupError as error:
        if isinstance(error, CommandError):
            print(error.tail, file=sys.stderr)
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("set-up: interrupted; the next make goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
