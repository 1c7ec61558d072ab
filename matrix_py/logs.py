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
    num_open = found.kept["scenes"] - found.num_finished
    if not found.intact:
        notice(f"see that it is right: matrix log check {out}")
    if num_open:
        notice(f"{num_open} scenes are open: go on with: matrix resume {out}")


@app.command("merge")
def log_merge(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Logs of one configuration.")],
    out: Out,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make one log of several that have the same configuration."""
    from matrix_py.store.merge import merge
    from matrix_py.terminal import bar, line, notice

    with bar("logs", len(runs), quiet=quiet) as update:
        found = merge(runs, out, overwrite=overwrite, on_progress=update)
    for text in found.notes:
        notice(text)
    shared = f", {found.num_shared} in more than one" if found.num_shared else ""
    line(f"{out}: {found.num_scenes} scenes ({found.num_finished} finished) of {len(runs)} logs{shared}")
    if found.root is not None:
        line(f"root {found.root.hex()}")


@app.command("export")
def log_export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A log.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to make.")],
    output: Annotated[ExportFormat, typer.Option("--format", help="parquet: a file a table.")] = ExportFormat.PARQUET,
    quiet: Quiet = False,
) -> None:
    """Write a log as a folder of Parquet files."""
    from matrix_py.store.draft import TABLES
    from matrix_py.store.parquet import export_log
    from matrix_py.terminal import bar, line

    with bar("tables", len(TABLES), quiet=quiet) as update:
        found = export_log(run, out, on_progress=update)
    line(f"{out}: {len(found.tables)} tables, {sum(table.rows for table in found.tables.values())} rows")


@app.command("import")
def log_import(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `log export` wrote.")],
    out: Out,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make a log of a folder of Parquet files."""
    from matrix_py.store.draft import TABLES
    from matrix_py.store.parquet import import_log
    from matrix_py.terminal import bar, line

    with bar("tables", len(TABLES), quiet=quiet) as update:
        found = import_log(folder, out, overwrite=overwrite, on_progress=update)
    line(f"{out}: {len(found.tables)} tables, {sum(table.rows for table in found.tables.values())} rows")
