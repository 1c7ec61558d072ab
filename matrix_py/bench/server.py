"""llama.cpp's own server, started for a benchmark and asked over HTTP: the peer's side of a comparison."""

from __future__ import annotations

import http.client
import json
import queue
import shlex
import socket
import subprocess
import tempfile
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Self

from matrix_py.bench.workload import Answering, Ask
from matrix_py.errors import ConfigError, EngineError

_START_S = 120.0


class Server:
    """A llama-server that runs as long as its `with` block."""

    def __init__(self, program: Path, model: Path, configuration: str, *, context: int, threads: int) -> None:
        """Say how to start it.

        Args:
            program: path of llama-server.
            model: path of a GGUF.
            configuration: options, such as `-np 8 -no-kvu -fa on`.
            context: tokens that a turn may hold; the server gets that for each of its slots.
            threads: CPU threads.
        """
        options = shlex.split(configuration)
        slots = int(options[options.index("-np") + 1]) if "-np" in options else 1
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        # The server rounds a slot's share down.
        size = slots * (context + 64)
        self._command = [str(program), "-m", str(model), "-c", str(size), "-t", str(threads), *options, "--port", str(self._port)]
        self._command += ["--host", "127.0.0.1"]
        self.prefilled = 0

    def __enter__(self) -> Self:
        """Start it and wait until it answers.

        Raises:
            ConfigError: it does not start.
        """
        # Closed in __exit__.
        self._log = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)
        except OSError as error:
            self._log.close()
            raise ConfigError(f"--server {self._command[0]} cannot be started ({error.strerror}): give the path of llama-server") from error
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                last = self._log.read().decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
                self.__exit__(None, None, None)
                raise ConfigError(f"llama-server does not run ({last[0]}): look at its options, {shlex.join(self._command[5:])}")
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    @contextmanager
    def answering(self, parallel: int) -> Iterator[Answering]:
        """Yield an answerer that asks for exactly a turn's tokens, greedily, with so many requests in flight."""
        asked: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        done: queue.SimpleQueue[Hashable | Exception] = queue.SimpleQueue()

        def work() -> None:
            try:
                while (ask := asked.get()) is not None:
                    self._ask(ask)
                    done.put(ask.key)
            except Exception as error:  # whatever it is, whoever collects is told
                done.put(error)

        def submit(asks: list[Ask]) -> None:
            for ask in asks:
                asked.put(ask)

        def collect() -> list[Hashable]:
            found = done.get()
            if isinstance(found, Exception):
                raise EngineError(f"llama-server failed: {found}") from found
            return [found]

        threads = [Thread(target=work, daemon=True) for _ in range(parallel)]
        for thread in threads:
            thread.start()
        try:
            yield Answering(submit, collect)
        finally:
            for _ in threads:
                asked.put(None)
            for thread in threads:
                thread.join()

    def _ask(self, ask: Ask) -> None:
        request = {"prompt": ask.prompt, "n_predict": ask.tokens, "ignore_eos": True, "temperature": 0.0, "cache_prompt": True}
        # A connection a request: the server closes those that wait a while for the next one.
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=900)
        try:
            connection.request("POST", "/completion", json.dumps(request), {"Content-Type": "application/json"})
            body = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        if body.get("tokens_predicted") != ask.tokens:
            raise EngineError(f"it gave {body.get('tokens_predicted')} tokens instead of {ask.tokens}")
        self.prefilled += body["timings"]["prompt_n"]
