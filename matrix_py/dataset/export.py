"""Writing a dataset for trainers: a folder with a file a split, and what it was made of."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from matrix_py.dataset.formats import COLUMNS, RowFormat, columns, lines
from matrix_py.dataset.result import Dataset
from matrix_py.dataset.row import Row
from matrix_py.errors import StoreError
from matrix_py.store import TableWriter

# What the folder says of itself.
DESCRIPTION = "dataset.json"


def export(dataset: Dataset, out: Path, name: RowFormat, *, overwrite: bool = False) -> list[Path]:
    """Write a dataset to a folder, which appears under its name when it is whole: `train` and, if there are such rows, `held_out`.

    Args:
        dataset: the dataset.
        out: the folder to make.
        name: the form of the files.
        overwrite: replace the folder, if it is such a one.

    Returns:
        The files.

    Raises:
        StoreError: the folder exists or cannot be written. Nothing is left behind then.
    """
    check_folder(out, overwrite=overwrite)
    draft = out.with_name(f".{out.name}.new")
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        files = [_write(dataset, draft, split, rows, name) for split, rows in dataset.splits.items() if rows]
        about = {
            "dataset": dataset.hash.hex(),
            "format": str(name),
            "rows": {split: len(rows) for split, rows in dataset.splits.items()},
            "options": dataset.describe(),
            "counts": {kind: asdict(counts) for kind, counts in dataset.counts.items()},
        }
        (draft / DESCRIPTION).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    except OSError as error:
        raise StoreError(f"output {out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return [out / file for file in [*files, DESCRIPTION]]


def check_folder(out: Path, *, overwrite: bool) -> None:
    """Refuse a folder before anything is paid for.

    Raises:
        StoreError: it exists, and is no dataset or may not be replaced; or the folder that it is to lie in does not exist.
    """
    if out.exists() and not overwrite:
        raise StoreError(f"output {out} exists: choose another name for the folder, or give --overwrite")
    if out.exists() and not (out / DESCRIPTION).is_file():
        raise StoreError(f"output {out} is no dataset, and is not replaced: choose another name for the folder")
    if not out.absolute().parent.is_dir():
        raise StoreError(f"folder {out.parent} of output {out.name} does not exist: make it first")


def _write(dataset: Dataset, folder: Path, split: str, rows: tuple[Row, ...], name: RowFormat) -> str:
    if name is RowFormat.PARQUET:
        file = f"{split}.parquet"
        with TableWriter(folder / file, {"number": "UINTEGER", **COLUMNS}) as table:
            table.add((number, *columns(row, split)) for number, row in enumerate(rows))
        return file
    # FastChat reads one document; the others' trainers, a line a row.
    document = name is RowFormat.FASTCHAT
    file = f"{split}.json" if document else f"{split}.jsonl"
    with (folder / file).open("w", encoding="utf-8") as output:
        output.write("[\n" if document else "")
        for number, text in enumerate(_texts(dataset, rows, name)):
            output.write((",\n" if number else "") + text if document else text + "\n")
        output.write("\n]\n" if document else "")
    return file


def _texts(dataset: Dataset, rows: tuple[Row, ...], name: RowFormat) -> Iterator[str]:
    templates = {run.record.run_id: run.template for run in dataset.runs}
    return (json.dumps(lines(name, row, templates[row.run_id]), ensure_ascii=False) for row in rows)
