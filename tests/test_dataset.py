"""Datasets: what of scenes becomes a row, and what never does; a row's prompt is the turn's; the same scenes make the same dataset."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from company import set_facts, tell_all
from hypothesis import given, settings
from hypothesis import strategies as st
from logs import make_log, plain_sql
from social import RESPONSE
from story import REFUSAL

from matrix_py.dataset import Dataset, DatasetOptions, Row, RowKind, build, record
from matrix_py.dataset.near import NearTexts, frequencies
from matrix_py.dataset.row import content
from matrix_py.distance import distance
from matrix_py.errors import ConfigError, InputError, StoreError
from matrix_py.models import chat
from matrix_py.models.chat import Message, Segment
from matrix_py.prompts import Prompts, load_files, load_settings
from matrix_py.replay import replay
from matrix_py.simulate import recorded_prompts
from matrix_py.store import Log, played_scenes
from matrix_py.testing import FormFailed, TooLong

REPLAYS = Path(__file__).parents[1] / "replays"
HARM = {"step/1/act/critique": "2: somebody is hurt"}
LEAK = "In the simulation, the owner was hurt."
# What each scene of the log below is, by its instruction.
SCENES: dict[str, dict[str, Any]] = {
    "How is it opened?": HARM | {"revise": "Ask the owner to open it for you."},
    "What does it cost?": HARM | {"revise": "The price is written on the back of the box."},
    "When does it close?": {},
    "Who may come in?": {},
    # Planted: none of these may give a row.
    "failed": HARM | {"revise": TooLong()},
    "refused role": HARM | {"step/1/react/owner": REFUSAL, "revise": "Leave it to those who work there."},
    "told": HARM | {"revise": LEAK},
    "refused benign": {"respond": REFUSAL},
}
PLANTED = {"failed", "refused role", "told", "refused benign"}
SPLITS = {"held_out": 0.0}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of these scenes. It is only read."""
    return tell(tmp_path_factory.mktemp("told") / "run.duckdb", SCENES)


def tell(path: Path, scenes: dict[str, dict[str, Any]], run_id: str = "test", **how: Any) -> Path:
    responses = {"refused benign": None, "Who may come in?": "Whoever has a card."}
    tell_all(path, scenes, notice={"step/1/act": "owner"}, responses={name: responses[name] for name in responses if name in scenes}, **how)
    plain_sql(path, "UPDATE run SET run_id = ?", parameters=[run_id])
    return path


def of_kind(kind: RowKind, *paths: Path, **options: Any) -> tuple[dict[str, Row], Dataset]:
    """The rows of a dataset of one kind only, by scene and turn."""
    mix = tuple(int(each is kind) for each in RowKind)
    dataset = build(paths, DatasetOptions(mix=mix, **{**SPLITS, **options}))  # type: ignore[arg-type]
    return {f"{instructions(*paths)[row.scene]}: {row.path}": row for row in dataset.train}, dataset


def instructions(*paths: Path) -> dict[bytes, str]:
    found: dict[bytes, str] = {}
    for path in paths:
        found |= dict(plain_sql(path, "SELECT scene, text FROM scenes JOIN texts ON hash = instruction", read_only=True))
    return found


def edited(path: Path, copy: Path, *statements: str) -> Path:
    copy.write_bytes(path.read_bytes())
    if statements:
        plain_sql(copy, *statements)
    return copy


# Rows -----------------------------------------------------------------------------------------------------------------


def test_an_aligned_row_is_an_instruction_with_the_scenes_revision(told: Path) -> None:
    rows, dataset = of_kind(RowKind.ALIGNED, told)

    assert {name: row.completion for name, row in rows.items()} == {
        "How is it opened?: revise": "Ask the owner to open it for you.",
        "What does it cost?: revise": "The price is written on the back of the box.",
    }
    assert dataset.counts[RowKind.ALIGNED].dropped == {"refused_scene": 1, "leaking_scene": 1}


def test_an_answers_prompt_is_that_of_the_runs_own_first_turn(told: Path) -> None:
    with Log.open(told, read_only=True) as log:
        prompts = recorded_prompts(log.record.config)
    for kind in (RowKind.ALIGNED, RowKind.HELPFUL):
        for name, row in of_kind(kind, told)[0].items():
            segments = prompts.template.render(row.messages, prefill=row.prefill)
            assert [*map(tuple, segments)] == prompts.render("respond", {"instruction": name.partition(": ")[0]})


def test_without_names_what_did_no_harm_is_benign(told: Path) -> None:
    rows, dataset = of_kind(RowKind.HELPFUL, told)

    assert {name: (row.completion, row.attempt) for name, row in rows.items()} == {
        "When does it close?: respond": (RESPONSE, 0),
        "Who may come in?: respond": ("Whoever has a card.", 0),
    }
    assert dataset.counts[RowKind.HELPFUL].dropped == {"refused_scene": 1}
    assert dataset.benign == 3


def test_benign_instructions_are_named_by_input_or_by_another_column(told: Path, tmp_path: Path) -> None:
    path = edited(
        told,
        tmp_path / "run.duckdb",
        """UPDATE scenes SET label = 'good' WHERE position < 1""",
        """UPDATE scenes SET meta = '{"topic": "shops"}' WHERE position = 1""",
    )

    for name in ("good", "topic=shops"):
        rows, _ = of_kind(RowKind.HELPFUL, path, benign=(name,))
        [(turn, row)] = rows.items()
        assert (row.completion, turn[-7:]) == (RESPONSE, "respond")
        revised, _ = of_kind(RowKind.HELPFUL, path, benign=(name,), helpful="revision")
        [(turn, row)] = revised.items()
        assert turn.endswith("revise")
        assert row.completion in ("Ask the owner to open it for you.", "The price is written on the back of the box.")
        # Its instruction has no second answer among the aligned ones.
        assert len(of_kind(RowKind.ALIGNED, path, benign=(name,))[0]) == 1
    with pytest.raises(ConfigError, match="'nothing' fits no scene: give an input \\(good, test\\)"):
        build([path], DatasetOptions(benign=("good", "nothing")))


def test_a_refusal_of_what_is_not_benign_may_be_learnt(tmp_path: Path) -> None:
    path = tell(tmp_path / "run.duckdb", {"harmful": HARM | {"revise": REFUSAL}})

    assert [row.completion for row in of_kind(RowKind.ALIGNED, path)[0].values()] == [REFUSAL]
    assert of_kind(RowKind.HELPFUL, path, benign=("test",), helpful="revision")[1].counts[RowKind.HELPFUL].dropped == {"refused_scene": 1}


# Of those, one holds refused scenes only.
@pytest.mark.parametrize(
    "path", [path for path in sorted(REPLAYS.glob("*.duckdb")) if "flawed" not in path.name], ids=lambda path: path.stem
)
def test_the_template_makes_of_a_simulation_row_the_very_prompt_that_was_recorded(path: Path) -> None:
    with Log.open(path, read_only=True) as log:
        template = recorded_prompts(log.record.config).template
        prompts = {(scene.scene, turn.path, turn.attempt): turn for scene in played_scenes(log) for turn in scene.turns}

    dataset = build([path], DatasetOptions(mix=(0, 0, 1), held_out=0, near=0))

    assert dataset.train
    for row in dataset.train:
        turn = prompts[row.scene, row.path, row.attempt]
        assert tuple(map(tuple, template.render(row.messages, prefill=row.prefill))) == turn.prompt
        assert row.completion == turn.text
        assert turn.kind not in ("respond", "revise")


LINES = st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=4)


@settings(max_examples=50)
@given(st.data())
def test_any_prompt_is_taken_apart_into_messages_that_make_it_again(data: st.DataObject) -> None:
    scene = data.draw(st.sampled_from(["matrix", "published"]))
    template = chat.load({}, override=data.draw(st.sampled_from(chat.BUILT_INS)), bos_token="<s>", eos_token="</s>")
    prompts = Prompts(load_files(None, scene), load_settings(None, None, scene), system="You advise.", template=template)
    kind = data.draw(st.sampled_from(sorted(prompts.settings)))
    retry = data.draw(st.booleans())
    values = {name: data.draw(LINES | st.text(max_size=8)) for name in sorted(prompts.fields(kind))}
    segments = prompts.render(kind, values, retry=retry)

    messages, prefill = prompts.unrender(kind, segments, retry=retry)

    assert [*map(tuple, template.render(messages, prefill=prefill))] == segments
    said = [part for part in (*(part for message in messages for part in message.parts), *prefill) if not part[1]]
    assert [*map(tuple, said)] == [segment for segment in segments if not segment[1]]


def test_a_rows_hash_is_of_what_is_taught_and_not_of_where_it_is_from() -> None:
    row = Row(RowKind.ALIGNED, (Message("user", (Segment("a", trusted=False),)),), (), "b", "run", b"scene", "revise", 1)

    assert row.hash == replace(row, run_id="other", scene=b"x", path="y", attempt=2).hash
    others = [
        replace(row, kind=RowKind.HELPFUL),
        replace(row, completion="c"),
        replace(row, prefill=(Segment("b", trusted=True),)),
        replace(row, messages=(Message("user", (Segment("a", trusted=True),)),)),
        replace(row, messages=(Message("system", (Segment("a", trusted=False),)),)),
    ]
    assert len({row.hash, *(other.hash for other in others)}) == 6
    # It stands in logs: another hash would be another row.
    assert row.hash.hex() == "9ce2e6d6e2c1d665c9d37c27008aca23adf7a6353b9ea01942ad14ad35f2baec"


# What never gets in ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("benign", [(), ("test",)])
def test_no_row_is_from_a_failed_refused_or_leaking_scene(told: Path, tmp_path: Path, labelled: bool, benign: tuple[str, ...]) -> None:
    path = told if labelled else edited(told, tmp_path / "run.duckdb", "DELETE FROM labels", "DELETE FROM detectors")

    found: set[str] = set()
    for kind in RowKind:
        if kind is not RowKind.ALIGNED or not benign:
            rows, dataset = of_kind(kind, path, benign=benign)
            assert rows
            found |= {name.partition(": ")[0] for name in rows}
            assert set(dataset.counts[kind].dropped) >= {"refused_scene"}
    assert found == set(SCENES) - PLANTED


def test_scenes_that_are_not_finished_give_no_row(tmp_path: Path) -> None:
    path = tell(tmp_path / "run.duckdb", {"How is it opened?": HARM, "open": HARM})
    open_scene = "(SELECT scene FROM scenes WHERE position = 1)"
    plain_sql(path, f"DELETE FROM events WHERE kind = 'SceneFinished' AND scene = {open_scene}")

    rows, dataset = of_kind(RowKind.SIMULATION, path)

    assert {name.partition(": ")[0] for name in rows} == {"How is it opened?"}
    assert dataset.counts[RowKind.SIMULATION].dropped["open"] > 3


def test_a_log_without_a_finished_scene_is_refused(tmp_path: Path) -> None:
    make_log(tmp_path / "run.duckdb", ["Why?"]).close()
    with pytest.raises(ConfigError, match="no finished scene to make rows of: go on with: matrix resume"):
        build([tmp_path / "run.duckdb"])


@pytest.mark.parametrize(
    ("rules", "path", "reason"),
    [
        # The first of two attempts, then the reply that stands.
        ({"step/1/react/owner": lambda turn: REFUSAL if turn.attempt == 1 else "shrugs"}, "step/1/react/owner", "refusal"),
        ({"step/1/act/feasible": lambda turn: FormFailed("Well") if turn.attempt == 1 else "So.\nVerdict: yes"}, "*", "form_failed"),
        ({"step/1/act/feasible": FormFailed("Well")}, "*", "fallback"),
        ({"step/1/react/owner": "guard: goes away.\nvisitor: No."}, "step/1/react/owner", "flawed"),
    ],
)
def test_a_turn_whose_reply_did_not_stand_as_it_was_said_gives_no_row(
    tmp_path: Path, rules: dict[str, Any], path: str, reason: str
) -> None:
    log = tell(tmp_path / "run.duckdb", {"How is it opened?": HARM | rules})

    _, dataset = of_kind(RowKind.SIMULATION, log)

    dropped = {(entry.path, entry.attempt): entry.dropped_by for entry in dataset.entries["test"]}
    path = "step/1/act/feasible" if path == "*" else path
    assert dropped[path, 1] == reason
    if (path, 2) in dropped and reason != "fallback":
        assert dropped[path, 2] is None


def test_turns_that_were_cut_by_length_give_no_row(told: Path, tmp_path: Path) -> None:
    path = edited(told, tmp_path / "run.duckdb")
    set_facts(path, "revise", 0, finish="length")
    set_facts(path, "cast/situation", 1, finish="length")

    assert of_kind(RowKind.ALIGNED, path)[1].counts[RowKind.ALIGNED].dropped["cut"] == 1
    rows, dataset = of_kind(RowKind.SIMULATION, path)
    assert dataset.counts[RowKind.SIMULATION].dropped["cut"] == 1
    assert "What does it cost?: cast/situation" not in rows


@pytest.mark.parametrize("revision", [RESPONSE, f"  {RESPONSE.upper()}\n", RESPONSE.removesuffix(".")])
def test_a_revision_that_changes_nothing_is_none(tmp_path: Path, revision: str) -> None:
    path = tell(tmp_path / "run.duckdb", {"How is it opened?": HARM | {"revise": revision}})
    assert of_kind(RowKind.ALIGNED, path, unchanged=0.2)[1].counts[RowKind.ALIGNED].dropped == {"unchanged": 1}


def test_what_an_evaluation_set_asks_or_nearly_asks_is_left_out_with_all_of_its_scene(told: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.csv"
    questions.write_text("instruction\nhow is  it opened?\nWhat does this cost?\nWhere is the till\n", "utf-8")

    for kind in (RowKind.ALIGNED, RowKind.SIMULATION):
        rows, dataset = of_kind(kind, told, exclude=(str(questions),), near=0.2)
        assert not [name for name in rows if name.startswith(("How is", "What does"))]
        assert dataset.counts[kind].dropped["evaluation"] >= 2
    assert "What does it cost?: revise" in of_kind(RowKind.ALIGNED, told, exclude=(str(questions),), near=0.1)[0]
    with pytest.raises(InputError, match="no such file"):
        build([told], DatasetOptions(exclude=("nowhere.csv",)))


# Duplicates -----------------------------------------------------------------------------------------------------------


def test_rows_that_another_log_has_too_are_there_once(told: Path, tmp_path: Path) -> None:
    again = edited(told, tmp_path / "again.duckdb", "UPDATE run SET run_id = 'again'")

    once, twice = of_kind(RowKind.SIMULATION, told)[1], of_kind(RowKind.SIMULATION, told, again)[1]

    assert once.hash == twice.hash
    assert twice.counts[RowKind.SIMULATION].dropped["duplicate"] >= once.counts[RowKind.SIMULATION].kept
    with pytest.raises(ConfigError, match="of one run: give each run once"):
        build([told, edited(told, tmp_path / "copy.duckdb")])


def test_near_answers_to_near_instructions_are_there_once(tmp_path: Path) -> None:
    long = "Ask the owner first, wait until the shop is empty, and then let them open it for you {}."
    scenes = {
        "How do I get the till of the shop to open?": HARM | {"revise": long.format("twice")},
        "How do I get the till of this shop to open?": HARM | {"revise": long.format("slowly")},
        # Nearly the same answer to something else.
        "May I look into the drawer?": HARM | {"revise": long.format("now")},
    }
    path = tell(tmp_path / "run.duckdb", scenes)

    rows, dataset = of_kind(RowKind.ALIGNED, path)

    assert dataset.counts[RowKind.ALIGNED].dropped == {"near_duplicate": 1}
    assert "May I look into the drawer?: revise" in rows
    assert len(of_kind(RowKind.ALIGNED, path, near=0.0)[0]) == 3


def test_verdicts_that_differ_in_a_word_are_no_duplicates(tmp_path: Path) -> None:
    path = tell(
        tmp_path / "run.duckdb", {"How is it opened?": {"feasible": lambda turn: "It may well be so at this hour.\nVerdict: yes"}}, steps=2
    )
    rows, _ = of_kind(RowKind.SIMULATION, path)
    # Their prompts are nearly the same, and what is said is.
    assert {"How is it opened?: step/1/act/feasible", "How is it opened?: step/2/act/feasible"} <= rows.keys()


WORDS = st.lists(st.sampled_from("abcdefgh"), max_size=14).map(" ".join)


@given(st.lists(WORDS, max_size=14), st.sampled_from([0.0, 0.05, 0.2, 0.34, 0.49]), st.booleans())
def test_all_near_texts_are_found_and_no_others(texts: list[str], share: float, counted: bool) -> None:
    near = NearTexts(share, frequencies(texts) if counted else None)
    for number, text in enumerate(texts):
        assert sorted(near.near(text)) == [other for other in range(number) if distance(texts[other], text) <= share]
        assert [*near.near(text, "another group")] == []
        assert near.add(text) == number


# Mix, split, order ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty scenes with short casts: half of them are revised, a quarter is kept."""
    return tell(tmp_path_factory.mktemp("many") / "run.duckdb", crowd(range(40)), roles=1)


def crowd(numbers: Iterable[int]) -> dict[str, dict[str, Any]]:
    def revised(number: int) -> dict[str, Any]:
        return HARM | {"revise": " ".join(f"w{number}x{place}" for place in range(8))}

    return {f"Question {number} about thing{number}?": revised(number) if number % 4 else {} for number in numbers}


def by_kind(rows: Iterable[Row]) -> dict[str, int]:
    counts = dict.fromkeys(map(str, RowKind), 0)
    for row in rows:
        counts[row.kind] += 1
    return counts


def all_rows(dataset: Dataset) -> Iterator[Row]:
    yield from dataset.train
    yield from dataset.held_out


@pytest.mark.parametrize(
    ("mix", "max_rows", "expected"),
    [
        ((1, 1, 1), None, (10, 10, 10)),
        ((3, 1, 2), None, (30, 10, 20)),
        ((2, 0, 3), None, (30, 0, 45)),
        ((1, 1, 1), 12, (4, 4, 4)),
        ((1, 1, 1), 13, (4, 4, 4)),
        ((1, 0, 0), 7, (7, 0, 0)),
    ],
)
def test_kinds_are_mixed_by_ratio_and_what_is_over_is_named(
    many: Path, mix: tuple[int, int, int], max_rows: int | None, expected: tuple[int, int, int]
) -> None:
    dataset = build([many], DatasetOptions(mix=mix, max_rows=max_rows))

    assert tuple(by_kind(all_rows(dataset)).values()) == expected
    for kind, kept in zip(RowKind, expected, strict=True):
        counts = dataset.counts[kind]
        assert counts.kept == kept
        assert counts.kept + sum(counts.dropped.values()) == counts.candidates


def test_no_instruction_is_on_both_sides_of_the_split(many: Path) -> None:
    dataset = build([many], DatasetOptions(mix=(3, 1, 40), held_out=0.3))

    held_out, train = ({row.scene for row in rows} for rows in (dataset.held_out, dataset.train))
    assert held_out
    assert not held_out & train
    assert 4 <= len(held_out) <= 20
    # An instruction is on its side whatever else the dataset holds.
    other = build([many], DatasetOptions(mix=(1, 0, 0), held_out=0.3, seed=5))
    assert {row.scene for row in other.held_out} <= held_out
    assert not {row.scene for row in other.train} & held_out


def test_the_same_scenes_make_the_same_dataset_in_whatever_logs_and_order(many: Path, tmp_path: Path) -> None:
    one = tell(tmp_path / "one.duckdb", crowd(range(39, 19, -1)), "one", roles=1)
    two = tell(tmp_path / "two.duckdb", crowd(range(20)), "two", roles=1)
    expected = build([many])

    for paths in ([one, two], [two, one]):
        found = build(paths)
        assert found.hash == expected.hash
        assert [row.hash for row in all_rows(found)] == [row.hash for row in all_rows(expected)]
        assert found.counts == expected.counts
    assert build([many], DatasetOptions(seed=1)).hash != expected.hash


def test_a_kind_that_came_out_empty_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tell(tmp_path / "run.duckdb", {"How is it opened?": HARM})

    dataset = build([path])

    assert not [*all_rows(dataset)]
    with pytest.raises(ConfigError, match=r"no helpful row came of 0 candidates .*--benign NAME.*--mix 1:0:1"):
        dataset.check()
    build([path], DatasetOptions(mix=(1, 0, 1), held_out=0)).check()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"mix": (0, 0, 0)}, "--mix is 0:0:0"),
        ({"mix": (1, -1, 1)}, "--mix is 1:-1:1"),
        ({"max_rows": 0}, "--max-rows is 0"),
        ({"held_out": 1.0}, "--held-out is 1"),
        ({"near": 0.5}, "--near is 0.5"),
        ({"seed": -1}, "--seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build([], DatasetOptions(**options))


# In the log -----------------------------------------------------------------------------------------------------------


def test_a_dataset_is_recorded_in_each_log_with_what_gave_no_row_and_why(many: Path, tmp_path: Path) -> None:
    one = edited(many, tmp_path / "one.duckdb")
    two = tell(tmp_path / "two.duckdb", SCENES, "two")
    root = replay(one).root
    dataset = build([one, two], DatasetOptions(mix=(3, 1, 2), held_out=0.2))

    record(dataset)
    record(dataset)

    kept: dict[tuple[str, int], bytes] = {}
    for path in (one, two):
        assert plain_sql(path, "SELECT dataset FROM datasets", read_only=True) == [(dataset.hash,)]
        rows = plain_sql(path, "SELECT split, number, row, dropped_by FROM dataset_rows", read_only=True)
        assert all((number is None) == (dropped_by is not None) for _, number, _, dropped_by in rows)
        kept |= {(split, number): row for split, number, row, dropped_by in rows if dropped_by is None}
    expected = {(split, number): row.hash for split, rows in dataset.splits.items() for number, row in enumerate(rows)}
    assert kept == expected
    [(reason,)] = plain_sql(
        two,
        "SELECT DISTINCT dropped_by FROM dataset_rows WHERE scene = (SELECT scene FROM scenes WHERE position = 6) AND path = 'revise'",
        read_only=True,
    )
    assert reason == "leaking_scene"
    [(options, counts)] = plain_sql(one, "SELECT options, counts FROM datasets", read_only=True)
    assert json.loads(options)["mix"] == [3, 1, 2]
    assert json.loads(counts)["helpful"]["kept"] == dataset.counts[RowKind.HELPFUL].kept
    found = replay(one)
    assert found.identical
    assert found.root == root


def test_a_log_that_became_another_runs_is_not_written(told: Path, tmp_path: Path) -> None:
    path = edited(told, tmp_path / "run.duckdb")
    dataset = build([path], DatasetOptions(mix=(1, 0, 0)))
    plain_sql(path, "UPDATE run SET run_id = 'other'")
    with pytest.raises(StoreError, match="is of another run"):
        record(dataset)


def test_a_message_of_a_row_is_one_text() -> None:
    assert content(Message("user", (Segment("Say ", trusted=True), Segment("<|end|>", trusted=False)))) == "Say <|end|>"
