"""What is printed of a dataset."""

from matrix_py.dataset.result import Dataset
from matrix_py.dataset.row import Row, RowKind
from matrix_py.terminal import line, print_segments, print_table

EXAMPLES = 5


def print_dataset(dataset: Dataset) -> None:
    """Print what came of the scenes: a row a kind and reason, then one line."""
    rows: list[tuple[object, ...]] = []
    for kind in RowKind:
        counts = dataset.counts[kind]
        rows.append((kind, "kept", counts.kept))
        rows += [("", reason, count) for reason, count in sorted(counts.dropped.items(), key=lambda each: (-each[1], each[0]))]
        rows.append(("", "candidates", counts.candidates))
    print_table(["kind", "", "turns"], rows)
    finished = sum(run.num_finished for run in dataset.runs)
    total = sum(run.num_scenes for run in dataset.runs)
    told = f"{finished} of {total} scenes finished, {dataset.benign} of them benign ({_benign(dataset)})"
    line(f"{told}; {len(dataset.train)} rows to train on, {len(dataset.held_out)} held out")


def print_examples(dataset: Dataset, *, reveal: bool) -> None:
    """Print the first rows of each kind. What users and models wrote is hidden without `reveal`."""
    for kind in RowKind:
        found = [row for row in (*dataset.train, *dataset.held_out) if row.kind is kind]
        for number, row in enumerate(found[:EXAMPLES], start=1):
            line("")
            line(f"{kind} {number}: scene {row.scene.hex()[:12]}, turn {row.path}{f'#{row.attempt}' if row.attempt > 1 else ''}")
            _print_row(row, reveal=reveal)


def _print_row(row: Row, *, reveal: bool) -> None:
    for message in row.messages:
        line(f"[{message.role}]")
        print_segments([(part.text, part.trusted) for part in message.parts if not isinstance(part, str)], reveal=reveal)
    line("[assistant]")
    print_segments([*((part.text, part.trusted) for part in row.prefill), (row.completion, False)], reveal=reveal)


def _benign(dataset: Dataset) -> str:
    names = dataset.options.benign
    return f"--benign {' '.join(names)}" if names else "their response was kept, since no harm was found"
