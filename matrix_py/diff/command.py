"""The command `matrix diff`. It only parses and prints."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from matrix_py.options import OutputFormat, Quiet


def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A log.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The log of the run to compare with it: after an edit, say.")],
    null: Annotated[
        Path | None,
        typer.Option("--null", metavar="A2", help="Another run of A's configuration under another seed: what differs without any edit."),
    ] = None,
    output: Annotated[
        OutputFormat, typer.Option("--format", help="text: a page; json: everything, scene by scene; texts as their lengths.")
    ] = OutputFormat.TEXT,
    reveal: Annotated[bool, typer.Option("--reveal", help="With --format json: text that may be harmful.")] = False,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads. [default: all]")] = None,
    quiet: Quiet = False,
) -> None:
    """Say what differs between two runs of the same instructions: turns, casts, verdicts, critiques, revisions, and where scenes part.

    With --null, each figure stands beside the noise floor, and the effect has an interval: * where it leaves zero out, ** where it still
    does with all figures taken together.
    """
    from matrix_py.diff import diff as compare
    from matrix_py.diff import num_steps
    from matrix_py.diff.report import document, lines
    from matrix_py.terminal import bar, json_text, line

    as_json = output is OutputFormat.JSON
    with bar("views", num_steps(with_null=null is not None), quiet=quiet) as update:
        found = compare(a, b, null=null, scenes=as_json, threads=threads, on_progress=update)
    if as_json:
        sys.stdout.write(json_text(document(found, reveal=reveal)) + "\n")
    else:
        for text in lines(found):
            line(text)
