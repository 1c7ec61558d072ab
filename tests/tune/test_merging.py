"""A base and an adapter in one Q8_0 GGUF."""

from __future__ import annotations

import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import gguf
import llama_cpp.llama_cpp as ll
import numpy as np
import pytest
import torch
from logs import ENGINE
from parity import random_adapter, split

import matrix_py.models.llama
from matrix_py import _core
from matrix_py.engine import Engine
from matrix_py.errors import ModelError, StoreError
from matrix_py.testing.random_gguf import write_random_gguf
from matrix_py.tune.adapter import Adapter
from matrix_py.tune.gguf_file import GgufFile
from matrix_py.tune.loading import load_gguf
from matrix_py.tune.merge import merge

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore:Unable to fetch remote file", "ignore:Could not find a config file"
)
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def adapter_for(base: Path, folder: Path, **options: Any) -> Adapter:
    random_adapter(load_gguf(GgufFile(base), torch.float32), folder, strength=0.3, **options)
    return Adapter(folder)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("base") / "base.gguf", vocab="bpe")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Adapter:
    return adapter_for(base, base.parent / "tuned", target_modules=["q_proj", "down_proj"])


def test_matrices_that_the_adapter_changes_are_changed_and_all_else_is_as_it_was(tmp_path: Path, base: Path, adapter: Adapter) -> None:
    told: list[tuple[int, int]] = []
    merge(base, adapter, tmp_path / "merged.gguf", on_progress=lambda done, total: told.append((done, total)))
    before, after = GgufFile(base), GgufFile(tmp_path / "merged.gguf")
    assert list(before.shapes()) == list(after.shapes())
    deltas = dict(adapter.deltas(before.layout))
    assert len(deltas) == 4
    for name, tensor in after.tensors.items():
        if name not in deltas:
            assert tensor.tensor_type == before.tensors[name].tensor_type
            assert (np.asarray(tensor.data) == np.asarray(before.tensors[name].data)).all()
            continue
        delta = deltas[name]
        wanted = before.weight(name) + np.float32(delta.scale) * (delta.b @ delta.a)
        assert tensor.tensor_type == Q8_0
        assert (np.asarray(tensor.data) == gguf.quantize(wanted, Q8_0)).all()
        assert np.abs(wanted - before.weight(name)).max() > 0.05
    assert told[-1][0] == told[-1][1] == sum(tensor.n_bytes for tensor in after.tensors.values())


def test_metadata_and_vocabulary_are_copied_but_for_name_and_type(tmp_path: Path, base: Path, adapter: Adapter) -> None:
    merge(base, adapter, tmp_path / "merged.gguf")
    before, after = (
        {key: field.contents() for key, field in GgufFile(path).readers[0].fields.items()} for path in (base, tmp_path / "merged.gguf")
    )
    differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert differing == {"general.name", "general.quantization_version", "GGUF.kv_count"}
    weights = _core.hash_file(adapter.folder / "adapter_model.safetensors").hex()
    assert after["general.name"] == f"matrix random bpe 0 + adapter {weights[:12]}"
    assert after["general.file_type"] == 7


def test_a_merged_model_runs_deterministically_as_its_base_with_an_adapter_does_not(tmp_path: Path, base: Path, adapter: Adapter) -> None:
    merge(base, adapter, tmp_path / "merged.gguf")
    with Engine(str(tmp_path / "merged.gguf"), ENGINE) as engine:
        assert (engine.deterministic, engine.self_test) == (True, "self-test passed")


def test_the_same_files_give_the_same_bytes_also_from_a_split_base(tmp_path: Path, base: Path, adapter: Adapter) -> None:
    merge(base, adapter, tmp_path / "one.gguf")
    merge(base, Adapter(Path(shutil.copytree(adapter.folder, tmp_path / "elsewhere"))), tmp_path / "two.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()
    merge(split(base, tmp_path), adapter, tmp_path / "parts.gguf")
    assert (tmp_path / "parts.gguf").read_bytes() == (tmp_path / "one.gguf").read_bytes()


def test_a_matrix_is_merged_in_pieces(tmp_path: Path, base: Path, adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    merge(base, adapter, tmp_path / "whole.gguf")
    monkeypatch.setattr("matrix_py.tune.merge._CHUNK", 64 * 5)
    merge(base, adapter, tmp_path / "pieces.gguf")
    assert (tmp_path / "pieces.gguf").read_bytes() == (tmp_path / "whole.gguf").read_bytes()


@pytest.mark.parametrize(("ftype", "kind"), [(15, "Q4_K"), (1, "F16"), (32, "BF16")])
def test_of_another_format_every_matrix_becomes_q8_0(tmp_path: Path, ftype: int, kind: str) -> None:
    exact = write_random_gguf(tmp_path / "exact.gguf", n_embd=256, n_ff=256, n_head=8, n_layer=1, quantization="f32")
    matrix_py.models.llama._loaded()
    how = ll.llama_model_quantize_default_params()
    how.ftype, how.nthread = ftype, 1
    base = tmp_path / "base.gguf"
    assert ll.llama_model_quantize(str(exact).encode(), str(base).encode(), how) == 0
    before = GgufFile(base)
    assert before.tensors["blk.0.attn_q.weight"].tensor_type.name == kind
    merge(base, adapter_for(base, tmp_path / "tuned", target_modules=["v_proj"]), tmp_path / "merged.gguf")
    after = GgufFile(tmp_path / "merged.gguf")
    assert {tensor.tensor_type.name for name, tensor in after.tensors.items() if "norm" not in name} == {"Q8_0"}
    assert {tensor.tensor_type.name for name, tensor in after.tensors.items() if "norm" in name} == {"F32"}
    assert np.abs(after.weight("blk.0.attn_q.weight") - before.weight("blk.0.attn_q.weight")).max() < 0.002
    if kind == "Q4_K":
        with Engine(str(tmp_path / "merged.gguf"), ENGINE) as engine:
            assert engine.deterministic


def test_an_adapter_for_another_base_is_one_line_and_leaves_nothing(tmp_path: Path, adapter: Adapter) -> None:
    other = write_random_gguf(tmp_path / "other.gguf", n_embd=96)
    with pytest.raises(ModelError) as caught:
        merge(other, adapter, tmp_path / "merged.gguf")
    assert str(caught.value) == (
        f"adapter '{adapter.folder}' is for another base: it changes blk.0.ffn_down.weight of 64 x 128 numbers, "
        "and other.gguf has 96 x 128; name the model that it was trained on"
    )
    fewer = write_random_gguf(tmp_path / "fewer.gguf", n_layer=1)
    with pytest.raises(ModelError, match=r"is for another base: it changes model\.layers\.1\.\S+, which the model has not"):
        merge(fewer, adapter, tmp_path / "merged.gguf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer.gguf", "other.gguf"]


def test_on_a_full_disk_what_was_there_stays_and_nothing_else(tmp_path: Path, base: Path, adapter: Adapter) -> None:
    (tmp_path / "merged.gguf").write_bytes(b"older")
    kept, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, kept[1]))
    try:
        with pytest.raises(StoreError, match=r"merged\.gguf cannot be written .*: free room, or write it elsewhere"):
            merge(base, adapter, tmp_path / "merged.gguf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
        signal.signal(signal.SIGXFSZ, ignored)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"merged.gguf": b"older"}
