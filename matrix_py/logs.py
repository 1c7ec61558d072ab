"""The commands of `matrix log`. Like the others, they only parse and print."""

import enum
import sys
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.options import Output, OutputFormat, Quiet

app = typer.Typer(no_args_is_help=True, help="Check, recover, merge, export and import logs.")

Out = Annotated[Path, typer.Option("--out", metavar="NEW.duckdb", help="The log to write.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the log if it exists.")]


class ExportFormat(enum.StrEnum):
    """What a log can be exported as."""

    PARQUET = "parquet"


@app.command("check")
def log_check(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Logs.")],
    output: Output = OutputFormat.TEXT,
    quiet: Quiet = False,
) -> None:
    """Verify every hash and every invariant of logs, without a model and without the scenes' code. Exit code 1 where something is wrong.

    Each finding names scene and event. `replay` is the other half: it derives the events again.
    """
    from dataclasses import asdict

    from matrix_py.store import Log, check
    from matrix_py.terminal import bar, json_text, line

    documents, sound = [], True
    for path in runs:
        with Log.open(path, read_only=True) as log, bar("scenes", log.num_scenes(), quiet=quiet) as update:
            found = check(log, on_progress=lambda done, _: update("checking", done))
        sound = sound and not found.findings
        documents.append(
            {
                "run": str(path),
                "scenes": found.num_scenes,
                "events": found.num_events,
                "completions": found.num_completions,
                "root": None if found.root is None else found.root.hex(),
                "findings": [asdict(finding) for finding in found.findings],
            }
        )
        if output is OutputFormat.TEXT:
            for finding in found.findings:
                line(str(finding))
            verdict = f"{len(found.findings)} findings" if found.findings else "sound"
            root = f", root {found.root.hex()}" if found.root else ""
            line(f"{path}: {verdict}, {found.num_scenes} scenes, {found.num_completions} turns, {found.num_events} events{root}")
    if output is OutputFormat.JSON:
        sys.stdout.write(json_text(documents) + "\n")
    if not sound:
        raise typer.Exit(1)


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
