"""Opening the model of a run that a log holds, and saying how a run is made."""

import platform
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from matrix_py import _core
from matrix_py.engine import Engine, EngineOptions
from matrix_py.errors import ConfigError, ModelError
from matrix_py.models import hub
from matrix_py.models.chat import ChatTemplate
from matrix_py.models.llama import LLAMA_CPP_VERSION, system_info
from matrix_py.types import KvType, RunConfig, RunRecord

_PACKAGES = ("matrix-py", "llama-cpp-python", "duckdb", "msgspec", "jinja2")


def open_recorded(
    record: RunRecord,
    path: Path,
    *,
    model: str | None = None,
    engine: EngineOptions | None = None,
    strict: bool = True,
    announce: Callable[[str], None] = lambda line: None,
) -> Engine:
    """Open the model of a run again.

    Args:
        record: the run's.
        path: its log.
        model: where the model is now, if it was moved; it must be the same file.
        engine: how to open it; what the run's configuration decides is as there.
        strict: whether a run that was deterministic has to be so here; else it is where the model can be.
        announce: see `Engine`.

    Raises:
        MatrixError: the model or the adapter is gone, or is not the run's, or cannot be opened.
    """
    config, engine = record.config, engine or EngineOptions(gpu_layers=record.execution.gpu_layers)
    # The recorded template is used; the model's own may be one that cannot be.
    lora = _adapter(record, engine.lora)
    deterministic = None if config.deterministic and not strict else config.deterministic
    options = replace(
        engine,
        context=config.context,
        deterministic=deterministic,
        chat_template="plain",
        lora=lora,
        kv_type=KvType.F16 if config.kv_type is msgspec.UNSET else config.kv_type,
    )
    model_path = hub.resolve(model or record.execution.model_path)
    # Before it is opened: of another model, the engine may only say that it cannot do what this one could.
    if hash_of(model_path) != config.model:
        raise ModelError(f"model {model_path} is not the one that {path} was begun with: give that file with --model")
    return Engine(str(model_path), options, announce=announce)


def hash_of(path: Path) -> str:
    """Return the BLAKE3 of a model's or an adapter's file, in hex.

    Raises:
        ModelError: the file cannot be read.
    """
    try:
        return _core.hash_file(str(path)).hex()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _adapter(record: RunRecord, given: Path | None) -> Path | None:
    """Return where the run's adapter is."""
    if record.config.adapter is msgspec.UNSET:
        if given is not None:
            raise ConfigError(f"--lora is {given}, but the run was begun without an adapter: leave it out")
        return None
    path = given or Path(record.execution.adapter_path)
    if not path.is_file() or _core.hash_file(path).hex() != record.config.adapter:
        raise ModelError(f"adapter {path} is not the one that the run was begun with: give that file with --lora")
    return path


def recorded_template(config: RunConfig) -> ChatTemplate:
    """Return the chat template that a run was made with."""
    return ChatTemplate(config.template, name="recorded", bos_token=config.bos_token, eos_token=config.eos_token)


def how_run(engine: Engine) -> dict[str, Any]:
    """Return the fields of an execution that say how turns are run: what a session that resumes a run may do otherwise."""
    options = engine.options
    return {
        "model_path": str(engine.path.absolute()),
        "llama_cpp": build(),
        "device": "cpu" if options.gpu_layers == 0 else "gpu",
        "gpu_layers": options.gpu_layers,
        "kv": f"{engine.kv} {options.kv_type}",
        "kv_tokens": engine.kv_tokens,
        "parallel": engine.parallel,
        "cached": engine.cached,
        "threads": engine.threads,
        "batch": options.batch,
        "prefix_reuse": options.prefix_reuse,
        "versions": {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()},
    }


def build() -> str:
    """Return what llama.cpp is here: its version, and what the machine can do."""
    return f"llama-cpp-python {LLAMA_CPP_VERSION}; {platform.machine()}; {system_info()}"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
