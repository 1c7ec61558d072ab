"""The command `matrix export`. Like the others, it only parses and prints."""

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matrix_py.dataset.formats import RowFormat
from matrix_py.errors import ConfigError
from matrix_py.options import Quiet

if TYPE_CHECKING:
    from matrix_py.dataset import DatasetOptions


class Helpful(enum.StrEnum):
    """What a helpful row says."""

    RESPONSE = "response"
    REVISION = "revision"


# Options of a dataset, wherever one is built.
Mix = Annotated[str, typer.Option("--mix", metavar="A:H:S", help="Ratio of aligned, helpful and simulation rows; 0 leaves a kind out.")]
HelpfulText = Annotated[
    Helpful, typer.Option("--helpful", help="What a helpful row says: the scene's response, or its revision where it was revised.")
]
Benign = Annotated[
    list[str] | None,
    typer.Option(
        "--benign",
        metavar="NAME",
        help="Instructions that are benign: those of this input (NAME=PATH at simulate), or COLUMN=VALUE of its other columns. May be "
        "given more than once. [default: those whose response was kept, since no harm was found]",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="INPUT", help="An evaluation set: what is about its instructions, or nearly so, is left out."),
]
MaxRows = Annotated[int | None, typer.Option("--max-rows", help="Rows at most, of all kinds, held-out ones too.")]
HeldOut = Annotated[float, typer.Option("--held-out", help="Share of the instructions that are held out.")]
DatasetSeed = Annotated[int, typer.Option("--seed", help="Seed of the choice among rows, and of their order.")]
Near = Annotated[
    float, typer.Option("--near", help="Share of words in which near-duplicates may differ, of which one is kept; 0 for exact ones only.")
]


def dataset_options(
    *,
    mix: str,
    helpful: Helpful,
    benign: list[str] | None,
    exclude: list[str] | None,
    max_rows: int | None,
    held_out: float,
    seed: int,
    near: float,
) -> "DatasetOptions":
    """Return what these options ask for.

    Raises:
        ConfigError: `mix` is no ratio.
    """
    from matrix_py.dataset.options import DatasetOptions

    try:
        aligned, helpful_share, simulation = map(int, mix.split(":"))
    except ValueError:
        raise ConfigError(f"--mix is {mix!r}: give three whole numbers for aligned:helpful:simulation, such as 1:1:1") from None
    return DatasetOptions(
        mix=(aligned, helpful_share, simulation),
        helpful=helpful.value,
        benign=tuple(benign or ()),
        exclude=tuple(exclude or ()),
        max_rows=max_rows,
        held_out=held_out,
        seed=seed,
        near=near,
    )


def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Logs.")],
    name: Annotated[
        RowFormat,
        typer.Option(
            "--format",
            help="sft: TRL's prompt and completion, as messages; prompt: the same as texts under the run's chat template; chat: messages; "
            "fastchat: conversations; parquet: all columns, with the turn that a row is from.",
        ),
    ] = RowFormat.SFT,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The folder to make, with a file a split.")] = None,
    mix: Mix = "1:1:1",
    helpful: HelpfulText = Helpful.RESPONSE,
    benign: Benign = None,
    exclude: Exclude = None,
    max_rows: MaxRows = None,
    held_out: HeldOut = 0.05,
    seed: DatasetSeed = 0,
    near: Near = 0.2,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only print counts by kind and reason, and five rows a kind; nothing is written.")
    ] = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Of --dry-run: show text that may be harmful.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder, if it is a dataset.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make a dataset of scenes, to train a model on: instructions with revisions and with helpful answers, and the scenes' own turns.

    Each row can be traced to its scene: the logs get the dataset's hash, its rows, and why other turns gave none.
    """
    from matrix_py.dataset import build
    from matrix_py.dataset.export import check_folder
    from matrix_py.dataset.export import export as write
    from matrix_py.dataset.recording import record_in
    from matrix_py.dataset.report import print_dataset, print_examples
    from matrix_py.errors import StoreError
    from matrix_py.terminal import counting, line, notice

    if out is None and not dry_run:
        raise ConfigError("--out is missing: give the folder to make, such as --out dataset, or --dry-run")
    if out is not None and not dry_run:
        check_folder(out, overwrite=overwrite)
    options = dataset_options(
        mix=mix, helpful=helpful, benign=benign, exclude=exclude, max_rows=max_rows, held_out=held_out, seed=seed, near=near
    )
    with counting("scenes", quiet=quiet) as progress:
        dataset = build(runs, options, on_progress=progress)
    print_dataset(dataset)
    sys.stdout.flush()
    dataset.check()
    if dry_run:
        print_examples(dataset, reveal=reveal)
    elif out is not None:
        for file in write(dataset, out, name, overwrite=overwrite):
            line(str(file))
        for run in dataset.runs:
            try:
                record_in(dataset, run)
            except StoreError as error:
                # The rows themselves are whole, and say which turns they are from in their Parquet form.
                notice(f"the dataset is not recorded in {run.path}: {error}")
    line(f"dataset {dataset.hash.hex()}")
