"""`resolve` against real files and against a stand-in for a model hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest

import matrix_py
from matrix_py.errors import ModelError
from matrix_py.models.hub import resolve, split_parts

Fetch = Callable[..., str]

COMMIT = "a" * 40
# huggingface_hub reads its settings at import, so that each case runs in a process of its own. It waits between
# attempts; not here.
SCRIPT = """
import sys, time
time.sleep = lambda seconds: None
from matrix_py.errors import ModelError
from matrix_py.models.hub import resolve, resolve_repository
try:
    print(resolve(sys.argv[1]) if ".gguf" in sys.argv[1] else resolve_repository(sys.argv[1], ["*.json"]))
except ModelError as error:
    print("ERROR", error)
"""


@dataclass
class Hub:
    """A hub that knows `files` by (repo, revision, name) and answers `refusals` by repo or revision."""

    files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    endpoint: str = ""

    def answer(self, path: str) -> tuple[int, str, bytes]:
        owner, repo, _, revision, *rest = unquote(path).strip("/").split("/")
        repo_id, name = f"{owner}/{repo}", "/".join(rest)
        for key in (repo_id, revision):
            if key in self.refusals:
                return *self.refusals[key], b""
        content = self.files.get((repo_id, revision, name))
        return (404, "EntryNotFound", b"") if content is None else (200, "", content)

    def describe(self, path: str) -> tuple[int, str, bytes]:
        """Answer what a repository holds: `/api/models/owner/repo/revision/main`, or `tree` in the place of `revision`."""
        parts = unquote(path).partition("?")[0].strip("/").split("/")
        repo_id, revision = "/".join(parts[2:4]), parts[-1]
        names = [name for repo, known, name in self.files if (repo, known) == (repo_id, revision)]
        if parts[:2] != ["api", "models"] or not names:
            return 404, "RepoNotFound", b""
        if parts[4] == "tree":
            tree = [{"type": "file", "path": name, "oid": "0" * 40, "size": len(name)} for name in names]
            return 200, "", json.dumps(tree).encode()
        about = {"id": repo_id, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return 200, "", json.dumps(about).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code, content = hub.answer(self.path) if "/resolve/" in self.path else hub.describe(self.path)
            hub.requests.append((self.command, self.path, self.headers.get("Authorization", "")))
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("ETag", f'"{abs(hash(self.path)):x}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path) -> Fetch:
    """Resolve a name against the hub in a fresh process and return the one line that it prints."""

    def run(spec: str, **settings: str) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith("HF_") and "proxy" not in name.lower()}
        env |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1"} | settings
        env["PYTHONPATH"] = str(Path(matrix_py.__file__).parents[1])
        done = subprocess.run([sys.executable, "-c", SCRIPT, spec], env=env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        return done.stdout.strip()

    return run


def test_a_local_gguf_resolves_to_itself(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF and more")
    assert resolve(str(file)) == file


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(None, "does not exist"), (b"", "is empty"), (b"GG", "is no GGUF file"), (b"PK\x03\x04zip", "is no GGUF file")],
)
def test_what_is_no_gguf_is_refused_in_one_line_that_names_it(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "model.gguf"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError, match=complaint) as caught:
        resolve(str(file))
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a folder: name the \.gguf file in it"):
        resolve(str(tmp_path))


def test_a_path_with_a_null_byte_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        resolve("model\0.gguf")


def test_any_part_of_a_split_model_resolves_to_the_first(tmp_path: Path) -> None:
    for part in (1, 2):
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(b"GGUF")
    assert resolve(str(tmp_path / "m-00002-of-00002.gguf")) == tmp_path / "m-00001-of-00002.gguf"


def test_a_split_model_with_a_missing_part_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"m-00002-of-00002\.gguf' does not exist"):
        resolve(str(tmp_path / "m-00001-of-00002.gguf"))


@pytest.mark.parametrize("name", ["m.gguf", "m-00003-of-00002.gguf", "m-00001-of-99999.gguf", "m-1-of-2.gguf"])
def test_other_names_are_one_file(name: str) -> None:
    assert split_parts(name) == [name]


@pytest.mark.parametrize(
    "spec",
    [
        "hf:",
        "hf:owner/file.gguf",
        "hf:owner/repo/file.bin",
        "hf:o/r/file.gguf@",
        "hf:o/r/../../file.gguf",
        "hf:/o/r/file.gguf",
    ],
)
def test_a_malformed_hub_name_is_refused_with_the_usage(spec: str) -> None:
    with pytest.raises(ModelError, match=r"write hf:OWNER/REPO/FILE\.gguf"):
        resolve(spec)


def test_a_hub_file_is_downloaded_once(hub: Hub, fetch: Fetch) -> None:
    # given
    hub.files["owner/repo", "main", "sub/m.gguf"] = b"GGUF from the hub"
    # when
    first = fetch("hf:owner/repo/sub/m.gguf")
    second = fetch("hf:owner/repo/sub/m.gguf")
    # then
    assert Path(first).read_bytes() == b"GGUF from the hub"
    assert first == second
    assert [method for method, path, _ in hub.requests if "/resolve/" in path].count("GET") == 1


def test_a_revision_is_asked_for_with_the_token(hub: Hub, fetch: Fetch) -> None:
    hub.files["owner/repo", "v2", "a@b.gguf"] = b"GGUF"
    path = fetch("hf:owner/repo/a@b.gguf@v2", HF_TOKEN="hf_word")
    assert Path(path).name == "a@b.gguf"
    assert all(token == "Bearer hf_word" for _, path, token in hub.requests if "/resolve/v2/" in path)


def test_all_parts_of_a_split_model_are_downloaded(hub: Hub, fetch: Fetch) -> None:
    for part in (1, 2, 3):
        hub.files["owner/repo", "main", f"m-0000{part}-of-00003.gguf"] = f"GGUF{part}".encode()
    first = Path(fetch("hf:owner/repo/m-00002-of-00003.gguf"))
    assert first.name == "m-00001-of-00003.gguf"
    assert [part.read_bytes() for part in sorted(first.parent.iterdir())] == [b"GGUF1", b"GGUF2", b"GGUF3"]


def test_a_download_that_is_no_gguf_is_refused(hub: Hub, fetch: Fetch) -> None:
    hub.files["owner/repo", "main", "m.gguf"] = b"version https://git-lfs"
    assert "is no GGUF file" in fetch("hf:owner/repo/m.gguf")


@pytest.mark.parametrize(
    ("status", "code", "complaint"),
    [
        (404, "EntryNotFound", "owner/repo has no file 'm.gguf'"),
        (404, "RevisionNotFound", "owner/repo has no revision 'v9'"),
        (404, "RepoNotFound", "no repository 'owner/repo'"),
        (401, "RepoNotFound", "no repository 'owner/repo'"),
        (401, "", "set HF_TOKEN"),
        (403, "", "refused access (status 403): set HF_TOKEN"),
        (403, "GatedRepo", "accept the model's terms"),
        (503, "", "no answer from"),
    ],
)
def test_a_refusal_becomes_one_line_with_the_remedy(hub: Hub, fetch: Fetch, status: int, code: str, complaint: str) -> None:
    hub.refusals["owner/repo"] = (status, code)
    line = fetch("hf:owner/repo/m.gguf@v9")
    assert line.startswith("ERROR model 'hf:owner/repo/m.gguf@v9' cannot be fetched: ")
    assert complaint in line


def test_a_closed_port_becomes_one_line(fetch: Fetch) -> None:
    line = fetch("hf:owner/repo/m.gguf", HF_ENDPOINT="http://127.0.0.1:9")
    assert "no answer from http://127.0.0.1:9" in line
    assert "Connection refused" in line


def test_offline_a_cached_file_is_found_and_another_is_not(hub: Hub, fetch: Fetch) -> None:
    # given
    hub.files["owner/repo", "main", "m.gguf"] = b"GGUF"
    path = fetch("hf:owner/repo/m.gguf")
    hub.requests.clear()
    # when
    found = fetch("hf:owner/repo/m.gguf", HF_HUB_OFFLINE="1")
    missed = fetch("hf:owner/repo/other.gguf", HF_HUB_OFFLINE="1")
    # then
    assert found == path
    assert "HF_HUB_OFFLINE is set: unset it" in missed
    assert hub.requests == []


def test_a_repository_is_downloaded_without_the_files_that_nobody_asked_for(fetch: Fetch, hub: Hub) -> None:
    for revision in ("main", COMMIT):
        for name in ("config.json", "tokenizer.json", "weights.bin"):
            hub.files["owner/repo", revision, name] = name.encode()
    folder = Path(fetch("owner/repo"))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "tokenizer.json"]
    assert (folder / "config.json").read_bytes() == b"config.json"


def test_a_repository_that_is_not_there_is_one_line(fetch: Fetch, hub: Hub) -> None:
    assert fetch("owner/none") == (
        f"ERROR model 'owner/none' cannot be fetched: {hub.endpoint} shows no repository 'owner/none': check the name; "
        "if it is private, set HF_TOKEN"
    )
