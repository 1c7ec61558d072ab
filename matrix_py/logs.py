"""The commands of `matrix log`. Like the others, they only parse and print."""

import enum
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.options import Quiet

app = typer.Typer(no_args_is_help=True, help="Recover, merge, export and import logs.")

Out = Annotated[Path, typer.Option("--out", metavar="NEW.duckdb", help="The log to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the log if it exists.")]


class ExportFormat(enum.StrEnum):
    """What a log can be exported as."""

    PARQUET = "parquet"


@app.command("salvage")
def log_salvage(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A log that is damaged. It is not changed.")],
    out: Out,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Recover what is whole of a damaged log, in a new one."""
    from matrix_py.store.draft import TABLES
    from matrix_py.store.salvage import salvage
    from matrix_py.terminal import bar, line, notice

    with bar("tables", len(TABLES), quiet=quiet) as update:
        found = salvage(run, out, overwrite=overwrite, on_progress=update)
    for text in found.wal:
        line(text)
    for table in ("scenes", "completions", "events", "texts"):
        lost = found.lost[table]
        line(f"{table}: {found.kept[table]} recovered, {'an unknown number' if lost is None else lost} lost")
    for text in found.notes:
        notice(text)
    line(f"{out}: " + ("nothing to salvage: the log is not damaged, and this is a copy" if found.intact else "what could be recovered"))
    if found.root is not None:
        line(f"root {found.root.hex()}")
    elif not quiet:
        notice(
            f"compare it: matrix replay {out}; go on with the {found.kept['scenes'] - found.num_finished} open scenes: matrix resume {out}"
        )
