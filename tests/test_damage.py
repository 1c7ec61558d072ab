"""Bytes of a log are changed or cut off at random: every command gives a right answer or one line, and salvage all that was whole."""

import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from damage import ROWS, Commands, Damage, Digests, Written, damage, write

from matrix_py.store.wal import HEADER

# What holds a run; what stands beside it may be left out.
_HASHED = ("texts", "completions", "events")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return write(tmp_path_factory.mktemp("damage"))


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as process:
        yield process


def of_tables(digests: Digests, *tables: str) -> Digests:
    return Counter({row: count for row, count in digests.items() if row[0] in tables})


def num_whole(written: Written, done: Damage) -> int:
    """How many transactions of the write-ahead log come before its damage. The header can be mended."""
    first = min(at for at in done.at if at >= len(HEADER)) if any(at >= len(HEADER) for at in done.at) else written.ends[-1]
    if done.kind == "wal cut":
        first = done.at[0]
    return sum(end <= first for end in written.ends)


def refused(result: tuple[int, str, str]) -> bool:
    """Whether a command refused in one line."""
    code, out, err = result
    assert code in (0, 2), result
    if code == 2:
        assert re.fullmatch("error: [^\n]+\n", err), result
        assert "unexpected" not in err
        assert out == ""
    return code == 2


def one_damage(written: Written, commands: Commands, folder: Path, chance: random.Random) -> list[str]:
    """Damage a copy, run each command on it, and return what came of them."""
    run, new = folder / "damaged.duckdb", folder / "new.duckdb"
    done = damage(written, run, chance)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    everything = written.prefixes[-1]
    allowed = written.prefixes if done.kind == "wal cut" else [everything]
    told = []

    result = commands.run("sql", str(run), ROWS, "--format", "json")
    if refused(result):
        told.append("sql refused")
    else:
        rows = Counter((row["name"], row["digest"]) for row in json.loads(result[1]))
        assert rows in allowed, done
        told.append("sql right" if rows == everything else "sql prefix")

    result = commands.run("replay", str(run), "--recorded")
    if refused(result):
        told.append("replay refused")
    else:
        turns = {sum(of_tables(prefix, "completions").values()) for prefix in allowed}
        assert re.search(r": identical, .* (\d+) turns", result[1])[1] in set(map(str, turns)), done
        told.append("replay right")

    result = commands.run("log", "salvage", str(run), "--out", str(new))
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path != new} == before, done
    if refused(result):
        assert not new.exists(), done
        assert done.kind.startswith("file"), done
        told.append("salvage refused")
    else:
        assert commands.run("replay", str(new), "--recorded")[0] == 0, done
        rows = Counter((row["name"], row["digest"]) for row in json.loads(commands.run("sql", str(new), ROWS, "--format", "json")[1]))
        if done.kind.startswith("wal"):
            expected = written.prefixes[num_whole(written, done)]
            assert of_tables(rows, *_HASHED, "scenes") == of_tables(expected, *_HASHED, "scenes"), done
            told.append("salvage whole" if of_tables(rows, *_HASHED) == of_tables(everything, *_HASHED) else "salvage prefix")
        else:
            assert of_tables(rows, *_HASHED) <= of_tables(everything, *_HASHED), done
            told.append("salvage whole" if of_tables(rows, *_HASHED) == of_tables(everything, *_HASHED) else "salvage part")
    for path in folder.iterdir():
        path.unlink()
    return [f"{done.kind}: {line}" for line in told]


def many(written: Written, commands: Commands, folder: Path, count: int, seed: int) -> Counter[str]:
    found: Counter[str] = Counter()
    chance = random.Random(seed)
    for _ in range(count):
        found.update(one_damage(written, commands, folder, chance))
    assert commands.num_crashes == 0
    return found


def test_a_damaged_log_gives_a_right_answer_or_one_line(written: Written, commands: Commands, tmp_path: Path) -> None:
    found = many(written, commands, tmp_path, 15, seed=7)

    assert found.total() == 3 * 15


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_a_thousand_damages(written: Written, commands: Commands, tmp_path: Path, seed: int) -> None:
    found = many(written, commands, tmp_path, 250, seed)

    print("\n".join(f"{count:5} {line}" for line, count in sorted(found.items())))
