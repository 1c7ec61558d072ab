"""Reading instructions: formats, dialogues, labels, limits, and one line for each kind of bad input."""

import csv
import datetime
import gzip
import io
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix_py.errors import ConfigError, InputError
from matrix_py.instructions import MULTI_TURN, Dialogue, Instruction, Reader

SHARED = Path(__file__).parents[2] / "shared" / "data"
TWO_TURNS = "\n\nHuman: Hi.\n\nAssistant: Hello.\n\nHuman: And now? \n\nAssistant: Now this."


def jsonl(*records: Any) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def write(folder: Path, name: str, content: bytes) -> str:
    path = folder / name
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return str(path)


def write_csv(path: Path, rows: Sequence[Sequence[str]]) -> str:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return str(path)


def read_one(folder: Path, record: dict[str, Any], **options: Any) -> Instruction:
    (instruction,) = Reader([write(folder, "in.jsonl", jsonl(record))], **options)
    return instruction


# Formats -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.jsonl", b'{"instruction": "one", "tag": "a"}\n\n  \r\n{"instruction": "t\\ud83d\\ude00o", "tag": "b"}'),
        ("in.json", ' [ {"instruction": "one", "tag": "a"}\n , {"instruction": "t😀o", "tag": "b"}] \n'.encode()),
        ("in.csv", 'instruction,tag\r\none,a\r\n\r\n"t😀o",b\r\n'.encode()),
        ("IN.CSV", '\ufefftag,instruction\na,one\nb,"t😀o"'.encode()),
        ("in.jsonl", '\ufeff{"instruction": "one", "tag": "a"}\n{"instruction": "t😀o", "tag": "b"}'.encode()),
        ("in.json", '\ufeff[{"instruction": "one", "tag": "a"}, {"instruction": "t😀o", "tag": "b"}]'.encode()),
    ],
)
def test_each_text_format_gives_the_same_instructions(tmp_path: Path, name: str, content: bytes, suffix: str) -> None:
    reader = Reader([write(tmp_path, name + suffix, content)])
    label = name.partition(".")[0]
    assert list(reader) == [
        Instruction("one", None, label, 0, {"tag": "a"}),
        Instruction("t😀o", None, label, 1, {"tag": "b"}),
    ]


def test_parquet_gives_instructions_and_plain_meta(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    columns = {
        "instruction": [f"text {row}" for row in range(3000)],
        "response": [None, "given", *[""] * 2998],
        "at": [datetime.datetime(2024, 5, 6, 7, 8, 9)] * 3000,
        "day": [datetime.date(2024, 5, 6)] * 3000,
        "price": [Decimal("1.50")] * 3000,
        "raw": [b"\x00\xff"] * 3000,
        "score": [float("nan"), *[0.5] * 2999],
        "nested": [{"list": [1, None]}] * 3000,
    }
    path = tmp_path / "in.parquet"
    sys.modules["pyarrow.parquet"].write_table(pyarrow.table(columns), path)
    reader = Reader([str(path)])
    found = list(reader)
    assert reader.count() == 3000
    assert [(each.text, each.row) for each in found] == [(f"text {row}", row) for row in range(3000)]
    assert [each.response for each in found[:3]] == [None, "given", None]
    assert found[0].meta == {
        "at": "2024-05-06T07:08:09", "day": "2024-05-06", "price": "1.50", "raw": "AP8=", "score": "NaN",
        "nested": {"list": [1, None]},
    }  # fmt: skip


def test_parquet_that_is_broken_or_doubles_a_column_is_refused(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    with pytest.raises(InputError, match=r"broken Parquet from row 0"):
        Reader([write(tmp_path, "text.parquet", b"no parquet at all")]).check()
    twice = pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 2, names=["instruction", "instruction"])
    parquet.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(InputError, match=r"'instruction' stands twice"):
        Reader([str(tmp_path / "twice.parquet")]).check()
    parquet.write_table(pyarrow.table({"instruction": ["x", " "]}), tmp_path / "blank.parquet")
    with pytest.raises(InputError, match=r"row 1 \(from 0\): column 'instruction' is blank"):
        Reader([str(tmp_path / "blank.parquet")]).check()


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match="pip install pyarrow"):
        Reader([write(tmp_path, "in.parquet", b"PAR1")]).check()


def test_benchmark_columns_are_read_and_stay_in_meta(tmp_path: Path) -> None:
    chosen = "\n\nHuman: Ask. \n\nAssistant: Sure."
    topics = {"T": {"A": ["q1", "q2"], "B": []}, "U": {"C": ["q3"]}}
    inputs = [
        write(tmp_path, "adv.csv", b"goal,target\nDo it,Sure\n"),
        write(tmp_path, "hqa.json", json.dumps(topics).encode()),
        write(tmp_path, "hh.jsonl.gz", jsonl({"chosen": chosen, "rejected": "no"})),
        write(tmp_path, "vicuna.jsonl", jsonl({"question_id": 7, "category": "c", "turns": [" Why? "]})),
    ]
    assert list(Reader(inputs)) == [
        Instruction("Do it", None, "adv", 0, {"target": "Sure"}),
        Instruction("q1", None, "hqa", 0, {"topic": "T", "subtopic": "A"}),
        Instruction("q2", None, "hqa", 1, {"topic": "T", "subtopic": "A"}),
        Instruction("q3", None, "hqa", 2, {"topic": "U", "subtopic": "C"}),
        Instruction("Ask.", None, "hh", 0, {"chosen": chosen, "rejected": "no"}),
        Instruction(" Why? ", None, "vicuna", 0, {"question_id": 7, "category": "c", "turns": [" Why? "]}),
    ]


def test_column_instruction_goes_before_benchmark_columns(tmp_path: Path) -> None:
    found = read_one(tmp_path, {"turns": ["a", "b"], "goal": "g", "instruction": "mine"})
    assert (found.text, found.meta) == ("mine", {"turns": ["a", "b"], "goal": "g"})


@pytest.mark.parametrize(
    ("given_response", "expected"),
    [("Yes.", "Yes."), (" Yes.\n", " Yes.\n"), ("", None), (" \n", None), (None, None), (float("nan"), None)],
)
def test_response_is_kept_unless_missing(tmp_path: Path, given_response: Any, expected: str | None) -> None:
    found = read_one(tmp_path, {"instruction": "x", "response": given_response})
    assert (found.response, found.meta) == (expected, {})


def test_meta_is_storable_by_a_strict_json_writer(tmp_path: Path) -> None:
    meta = {"f": [float("nan"), float("inf"), -float("inf"), 0.5], "i": [2**63 - 1, 2**80], "o": {"": [None, True]}}
    found = read_one(tmp_path, {"instruction": "x", **meta})
    expected = {"f": ["NaN", "Infinity", "-Infinity", 0.5], "i": [2**63 - 1, str(2**80)], "o": {"": [None, True]}}
    assert found.meta == expected
    assert msgspec.json.decode(msgspec.json.encode(found.meta)) == expected


def test_csv_fields_beyond_the_stdlib_limit_are_read_and_the_limit_is_left_alone(tmp_path: Path) -> None:
    text = "word " * 50_000
    before = csv.field_size_limit(1000)
    stream = iter(Reader([write_csv(tmp_path / "in.csv", [["instruction"], [text], ["short"]])]))
    assert next(stream).text == text
    assert csv.field_size_limit(before) == 1000


# Dialogues -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "first", "last"),
    [
        ({"chosen": TWO_TURNS}, "Hi.", "Human: Hi.\n\nAssistant: Hello.\n\nAnd now?"),
        ({"turns": ["Hi.", "And now?"]}, "Hi.", "Human: Hi.\n\nAnd now?"),
        ({"chosen": "\n\nHuman: Hi.\n\nHuman: And now?"}, "Hi.", "Human: Hi.\n\nAnd now?"),
    ],
)
def test_dialogue_chooses_the_turns(tmp_path: Path, record: dict[str, Any], first: str, last: str) -> None:
    path = write(tmp_path, "in.jsonl", jsonl(record, {"instruction": "x"}))
    single = Reader([path])
    assert [(each.text, each.row) for each in single] == [("x", 1)]
    assert single.dropped == {MULTI_TURN: 1}
    for dialogue, text in ((Dialogue.FIRST, first), (Dialogue.LAST_WITH_CONTEXT, last)):
        reader = Reader([path], dialogue=dialogue)
        assert [each.text for each in reader] == [text, "x"]
        assert reader.dropped == {}


def test_one_human_turn_is_the_same_under_every_dialogue(tmp_path: Path) -> None:
    record = {"chosen": "\n\nHuman: Two\n\nparagraphs.\n\nAssistant: Fine."}
    assert {read_one(tmp_path, record, dialogue=dialogue).text for dialogue in Dialogue} == {"Two\n\nparagraphs."}


# Labels, standard input ----------------------------------------------------------------------------------------------


def test_labels_name_the_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = jsonl({"instruction": "x"})
    for name in ("plain.JSONL", "a.b.jsonl.gz", "c.json.jsonl", "k=v.jsonl"):
        write(tmp_path, name, line)
    inputs = ["plain.JSONL", "a.b.jsonl.gz", "c.json.jsonl", "k=v.jsonl", "my-set.1=k=v.jsonl", "dev=-"]
    found = list(Reader(inputs, stdin=io.BytesIO(line)))
    assert [each.label for each in found] == ["plain", "a.b", "c.json", "k=v", "my-set.1", "dev"]


@pytest.mark.skipif(sys.platform == "darwin", reason="its file names are always UTF-8")
def test_a_label_is_always_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    Path(path).write_bytes(jsonl({"instruction": "x"}))
    assert [each.label for each in Reader([path])] == ["\ufffd"]


def test_standard_input_is_json_lines_and_read_once() -> None:
    reader = Reader(["-"], stdin=io.BytesIO(jsonl({"instruction": "a", "n": 1}, {"instruction": "b"})))
    reader.check()
    assert reader.count() is None
    assert [(each.text, each.label, each.row) for each in reader] == [("a", "stdin", 0), ("b", "stdin", 1)]
    with pytest.raises(InputError, match="standard input: holds no record"):
        next(iter(reader))
    with pytest.raises(InputError, match="given twice"):
        Reader(["-", "x=-"])


# Laziness, limit, check, count ---------------------------------------------------------------------------------------


def test_iteration_is_lazy_and_check_is_not(tmp_path: Path) -> None:
    good = jsonl({"instruction": "x"})
    for name, content in (
        ("in.jsonl", good * 50 + b"{"),
        ("in.csv", b"instruction\n" + b"x\n" * 50 + b"a,b\n"),
        ("in.json", b"[" + good.strip() + b", 5]"),
    ):
        path = write(tmp_path, name, content)
        assert next(iter(Reader([path]))).text == "x"
        with pytest.raises(InputError):
            Reader([path]).check()
        with pytest.raises(InputError):
            Reader([path]).count()


def test_limit_counts_instructions_over_all_inputs(tmp_path: Path) -> None:
    one = write(tmp_path, "one.jsonl", jsonl({"turns": ["a", "b"]}, {"turns": ["c"]}, {"turns": ["d", "e"]}))
    two = write(tmp_path, "two.jsonl", jsonl({"turns": ["f", "g"]}, {"instruction": "h"}, {"turns": ["i", "j"]}, 5))
    reader = Reader([one, two], limit=2)
    reader.check()
    assert reader.count() == 2
    for _ in range(2):
        assert [(each.text, each.label, each.row) for each in reader] == [("c", "one", 1), ("h", "two", 1)]
        assert reader.dropped == {MULTI_TURN: 3}
    assert list(Reader([one, two], limit=0)) == []
    assert Reader([one, one], limit=9).count() == 2


def test_check_opens_every_file_even_beyond_the_limit(tmp_path: Path) -> None:
    good = write(tmp_path, "good.jsonl", jsonl({"instruction": "x"}, {"instruction": "y"}))
    assert Reader([good, good], limit=1).count() == 1
    with pytest.raises(InputError, match="no instruction column among those found: 'prompt'"):
        Reader([good, write(tmp_path, "bad.jsonl", jsonl({"prompt": "x"}))], limit=1).check()


def test_check_leaves_standard_input_unread(tmp_path: Path) -> None:
    stdin = io.BytesIO(b"not JSON")
    Reader(["-", write(tmp_path, "in.jsonl", jsonl({"instruction": "x"}))], stdin=stdin).check()
    assert stdin.tell() == 0


# Bad input -----------------------------------------------------------------------------------------------------------

OK = b'{"instruction": "x"}\n'


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("in.jsonl", b"", "is empty"),
        ("in.jsonl", b"\n \n", "holds no record"),
        ("in.jsonl.gz", b"", "holds no record"),
        ("in.csv", b"instruction\n", "holds no record"),
        ("in.json", b"[ ]", "holds no record"),
        ("in.txt", b"x", r"unknown extension '\.txt'; name it \.jsonl"),
        ("in.parquet.gz", b"x", r"unknown extension '\.gz'"),
        ("in.jsonl", OK + b'{"prompt": 1, "id": 2}', r"line 2: .* 'prompt', 'id'; accepted are instruction, goal"),
        ("in.csv", b"prompt,id\na,b\n", r"line 2: .* 'prompt', 'id'; accepted are instruction, goal"),
        ("in.jsonl", OK + b'{"instruction": }', "line 2, column 17: broken JSON"),
        ("in.jsonl", OK + OK.strip() + OK, "line 2, column 21: broken JSON .Extra data"),
        ("in.json", b'[{"instruction": "x"},\n {"instruction" 5}]', "line 2, column 17: broken JSON"),
        ("in.json", b'[{"instruction": "x"}\n {"instruction": "y"}]', "line 2, column 2: .*',' delimiter"),
        ("in.json", b'[{"instruction": "x"},\n]', "line 2, column 1: broken JSON"),
        ("in.json", b'[{"instruction": "x"}', "line 1, column 22: broken JSON"),
        ("in.json", b'[{"instruction": "x"}]\n]', "line 2, column 1: .*Extra data"),
        ("in.json", OK + OK, r"line 2, column 1: .*one record a line is a \.jsonl file"),
        ("in.json", b'{"data": []}', r"neither a list of objects nor HarmfulQA's topics"),
        ("in.json", b'{"T": {"A": "q"}}', "topic 'T', subtopic 'A': no list of questions but text"),
        ("in.json", b'{"T": {"A": ["q", 5]}}', "subtopic 'A', question 2: .*no string but a number"),
        ("in.jsonl", OK + b"[1]", "line 2: the record is no object but a list"),
        ("in.json", b'[{"instruction": "x"},\n\n"y"]', "line 3: the record is no object but text"),
        ("in.jsonl", OK + b'{"instruction": null}', "line 2: column 'instruction' is no string but null"),
        ("in.jsonl", b'{"instruction": NaN}', "line 1: column 'instruction' is no string but a number"),
        ("in.jsonl", OK + b'{"instruction": " \\n"}', "line 2: column 'instruction' is blank"),
        ("in.csv", b'instruction,a\n"x\ny",1\n,2\n', "line 4: column 'instruction' is blank"),
        ("in.jsonl", OK + b'{"instruction": "x", "response": 5}', "line 2: column 'response' is no string"),
        ("in.jsonl", b'{"chosen": "Hello."}', "column 'chosen' is no dialogue"),
        ("in.jsonl", b'{"chosen": "\\n\\nAssistant: Hi.\\n\\nHuman: Hi."}', "column 'chosen' is no dialogue"),
        ("in.jsonl", b'{"chosen": "\\n\\nHuman: \\n\\nAssistant: Hi."}', "column 'chosen' has a blank human turn"),
        ("in.jsonl", b'{"turns": "x"}', "column 'turns' is no list of turns but text"),
        ("in.jsonl", b'{"turns": []}', "column 'turns' holds no turn"),
        ("in.jsonl", b'{"turns": [{"role": "user"}]}', "column 'turns' is no string but an object"),
        ("in.jsonl", OK + b'{"instruction": "\xff"}', "line 2: not UTF-8"),
        ("in.csv", b"instruction\nx\n\xe9t\xe9\n", "line 3: not UTF-8"),
        ("in.json", b'[{"instruction":\n"\xff"}]', "line 2: not UTF-8"),
        ("in.csv", "instruction\nx\n".encode("utf-16"), "line 1: not UTF-8"),
        ("in.csv", b"instruction\nx\na\0b\n", "line 3: a NUL byte"),
        ("in.json", b'[{"instruction":\n"\0"}]', "line 2: a NUL byte"),
        ("in.jsonl", OK + b'{"instruction": "a\\u0000b"}', "line 2: .* a NUL character"),
        ("in.jsonl", OK + b'{"instruction": "\\ud800"}', "line 2: column 'instruction' holds a lone surrogate"),
        ("in.jsonl", OK + b'{"instruction": "x", "a": [{"\\udfff": 1}]}', "line 2: column 'a' .*lone surrogate"),
        ("in.json", b'[\n{"instruction": "x", "response": "\\ud800"}]', "line 2: column 'response' .*surrogate"),
        ("in.jsonl", OK + b'{"instruction": "x", "instruction": "y"}', "line 2: .*'instruction' stands twice"),
        ("in.jsonl", OK + b'{"instruction": "x", "a": ' + b"9" * 5000 + b"}", "line 2: unusable JSON"),
        ("in.jsonl", b"[" * 100_000, "line 1: JSON nested too deeply"),
        ("in.jsonl", b'{"instruction": "x", "a": ' + b"[" * 99 + b"]" * 99 + b"}", "column 'a' is nested deeper"),
        ("in.csv", b"instruction,a\nx,1\ny,2,3\n", "line 3: 3 fields where the header has 2"),
        ("in.csv", b"instruction,a\nx\n", "line 2: 1 fields where the header has 2"),
        ("in.csv", b"a,instruction,a\nx,1,2\n", "column 'a' stands twice"),
        ("in.csv", b'instruction\nx\n"y\nz\n', "line 3: broken CSV"),
        ("in.jsonl.gz", b" " * (65 << 20), "line 1: is longer than 64 MiB"),
    ],
)
def test_bad_input_is_one_line_that_says_where(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = write(tmp_path, name, content)
    for read in (Reader([path]).check, lambda: list(Reader([path]))):
        with pytest.raises(InputError, match=reason) as caught:
            read()
        assert str(caught.value).startswith(f"input {path!r}")
        assert str(caught.value).isprintable()


def test_what_cannot_be_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for given_input, reason in (
        ("none.jsonl", "no such file"),
        ("my label=none.jsonl", "no such file .* a label before ="),
        ("folder.jsonl", "is a folder"),
        ("pipe.jsonl", "is no regular file; pipe JSON lines into -"),
    ):
        with pytest.raises(InputError, match=reason):
            Reader([str(tmp_path / given_input)]).check()

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, "in.jsonl", OK)
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)"):
        Reader([path]).check()


@pytest.mark.parametrize("content", [OK, gzip.compress(OK * 99, mtime=0)[:-9], gzip.compress(OK, mtime=0) + b"rest", b"\x1f\x8b"])
def test_broken_gzip_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(content)
    with pytest.raises(InputError, match="broken gzip"):
        Reader([str(tmp_path / "in.jsonl.gz")]).check()


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="limit -1 is negative"):
        Reader(["-"], limit=-1)
    with pytest.raises(InputError, match="no input is given"):
        Reader([])


# Properties, real data -----------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1))
def test_written_texts_are_read_back(texts: list[str]) -> None:
    texts = [text if text.strip() else f"x{text}" for text in texts]
    with tempfile.TemporaryDirectory() as folder:
        escaped = write(Path(folder), "escaped.jsonl", jsonl(*({"instruction": text} for text in texts)))
        raw = "\n".join(json.dumps({"instruction": text}, ensure_ascii=False) for text in texts)
        inputs = [
            escaped,
            write(Path(folder), "raw.jsonl", raw.encode()),
            write(Path(folder), "in.json", json.dumps([{"instruction": text} for text in texts], indent=1).encode()),
            write_csv(Path(folder) / "in.csv", [["tag", "instruction"], *(["", text] for text in texts)]),
        ]
        found = [(each.text, each.row) for each in Reader(inputs)]
    rows = [(text, row) for row, text in enumerate(texts)]
    assert found == list(itertools.chain.from_iterable([rows] * len(inputs)))


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside the checkout")
def test_real_benchmarks_are_read_whole() -> None:
    names = ("advbench-dev.csv", "harmfulqa-dev.json", "hh-harmless-dev.jsonl.gz", "vicuna-bench-dev.jsonl")
    inputs = [str(SHARED / name) for name in names]
    with gzip.open(SHARED / names[2], "rt", encoding="utf-8") as file:
        num_multi = sum(json.loads(line)["chosen"].count("\n\nHuman:") > 1 for line in file)
    reader = Reader(inputs)
    reader.check()
    assert reader.count() == 260 + 980 + 600 - num_multi + 40
    labels = [each.label for each in reader]
    assert [(label, len(list(group))) for label, group in itertools.groupby(labels)] == [
        ("advbench-dev", 260), ("harmfulqa-dev", 980), ("hh-harmless-dev", 600 - num_multi), ("vicuna-bench-dev", 40),
    ]  # fmt: skip
    assert reader.dropped == {MULTI_TURN: num_multi}
    assert Reader(inputs, dialogue=Dialogue.LAST_WITH_CONTEXT).count() == 260 + 980 + 600 + 40
