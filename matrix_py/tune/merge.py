"""A GGUF and an adapter, merged into one GGUF of Q8_0 weights, which runs deterministically as the adapter beside its base does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix_py.tune.drafting import draft
from matrix_py.tune.gguf_file import GgufFile

if TYPE_CHECKING:
    import numpy.typing as npt

    from matrix_py.tune.adapter import Adapter, Delta

# Numbers that are dequantised at a time: a matrix is never whole in memory.
_CHUNK = 1 << 22
_BLOCK = 32  # weights in a Q8_0 block
# Metadata that the file gets anew, or that say how it was split.
_ANEW = {"general.architecture", "general.file_type", "general.name", "general.quantization_version", "general.alignment"}
_SPLIT = "split."


def merge(base: Path, adapter: Adapter, out: Path, *, on_progress: Callable[[int, int], None] | None = None) -> None:
    """Write a GGUF with an adapter added to its matrices.

    The adapter is added in F32, then every matrix is Q8_0; what was and is not changed is copied bit by bit, as are metadata and
    vocabulary. The same files give the same bytes.

    Args:
        base: the GGUF; of a split model its first part. The merged model is in one file.
        adapter: trained on that model, or on the one that it was quantised from.
        out: the file to write; an existing one is replaced. It is there whole, or not at all.
        on_progress: told the bytes written so far, and those of all tensors.

    Raises:
        ModelError: the base cannot be read or is of an architecture that cannot be tuned, or the adapter is for another one.
        StoreError: the file cannot be written.
    """
    import gguf

    file = GgufFile(base)
    deltas = _fitting(file, adapter)
    with draft(out) as path:
        writer = gguf.GGUFWriter(path, file.architecture.name)
        try:
            _copy_metadata(file, writer, name=f"{file.value('general.name', base.stem)} + {adapter.name}")
            tensors = [_Merged(file, name, deltas.get(name)) for name in file.tensors]
            for tensor in tensors:
                writer.add_tensor_info(tensor.name, tensor.shape, tensor.dtype, tensor.num_bytes, raw_dtype=tensor.kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            [target] = writer.fout or []
            writer.write_padding(target, target.tell())
            done, total = 0, sum(tensor.num_bytes for tensor in tensors)
            for tensor in tensors:
                for data in tensor.chunks():
                    target.write(data.tobytes())
                    done += data.nbytes
                    if on_progress is not None:
                        on_progress(done, total)
                writer.write_padding(target, tensor.num_bytes)
        finally:
            writer.close()


class _Merged:
    """A tensor of the merged model."""

    def __init__(self, file: GgufFile, name: str, delta: Delta | None) -> None:
        import gguf
        import numpy as np

        kinds = gguf.GGMLQuantizationType
        self.name, self._delta, self._file = name, delta, file
        self._source: Any = file.tensors[name]
        self._kind_before = self._source.tensor_type
        self.shape = tuple(int(size) for size in reversed(self._source.shape))
        is_matrix = len(self.shape) > 1 and self.shape[-1] % _BLOCK == 0
        self.kind = kinds.Q8_0 if is_matrix else self._kind_before
        self.as_it_is = delta is None and self.kind == self._kind_before
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        self.num_bytes = int(np.prod(self.shape)) // block * size
        # Only a name for the writer, which takes bytes to be a quantised tensor's and wants the sizes of those.
        self.dtype = np.dtype(np.float32)

    def chunks(self) -> Iterator[npt.NDArray[Any]]:
        """Yield its data, as they stand in the file."""
        import gguf
        import numpy as np

        data = self._source.data
        rows = max(_CHUNK // self.shape[-1], 1)
        for at in range(0, len(data), rows):
            part = data[at : at + rows]
            if self.as_it_is:
                yield part
                continue
            numbers = self._file.dequantise(self.name, part)
            if self._delta is not None:
                numbers = numbers + np.float32(self._delta.scale) * (self._delta.b[at : at + rows] @ self._delta.a)
            yield gguf.quantize(np.ascontiguousarray(numbers, dtype=np.float32), self.kind)


def _fitting(file: GgufFile, adapter: Adapter) -> dict[str, Delta]:
    """Return what the adapter adds to the model's matrices.

    Raises:
        ModelError: the model has no such matrices.
    """
    shapes, deltas = dict(file.shapes()), dict(adapter.deltas(file.layout))
    for name, delta in deltas.items():
        if delta.shape != shapes.get(name):
            has = _sizes(shapes[name]) if name in shapes else "none"
            raise adapter.foreign(f"it changes {name} of {_sizes(delta.shape)} numbers, and {file.path.name} has {has}")
    return deltas


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _copy_metadata(file: GgufFile, writer: Any, *, name: str) -> None:
    """Give the writer all metadata of a model, arrays and texts byte by byte."""
    import gguf

    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if (alignment := file.value("general.alignment")) is not None:
        writer.add_custom_alignment(alignment)
    for key, field in file.readers[0].fields.items():
        if key in _ANEW or key.startswith((_SPLIT, "GGUF.")):
            continue
        kind, item = field.types[0], field.types[-1]
        values = [bytes(field.parts[at]) if item == gguf.GGUFValueType.STRING else field.parts[at].tolist()[0] for at in field.data]
        if kind != gguf.GGUFValueType.ARRAY:
            writer.add_key_value(key, values[0], kind)
        elif values:  # llama.cpp's own files have no empty arrays, and the writer refuses them
            writer.add_key_value(key, values, kind, sub_type=item)
