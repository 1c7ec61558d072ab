"""Looks for what a build needs and cannot fetch: Python's venv, Rust, a C and a C++ compiler."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

MIN_CARGO = (1, 88)
ANOTHER_PYTHON = "choose another Python: PYTHON=python3.12 make"


class SetupError(Exception):
    """Something is missing or failed; the message names it and the remedy, in one line."""


def output_of(command: Sequence[str], stdin: str = "") -> str | None:
    """Return what the command prints, or None where it is absent or fails."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


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
        missing_compiler("CC", "cc", "c", "#include <stdlib.h>\n") or missing_compiler("CXX", "c++", "c++", "#include <vector>\n"),
    ]
    if missing := [line for line in found if line]:
        raise SetupError("\nset-up: ".join(missing))


def main() -> int:
    """Print a line for each thing that is missing; the exit code says whether there was one."""
    try:
        check()
    except SetupError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
