"""Ablation: a cut scene is the scene that the smaller limit would have made, and what is shown of it is what its log says."""

import json
from pathlib import Path

import pytest
from keys import SCENES as KEYS
from keys import harms, number_of, prompt_of
from logs import EMBEDDED, drive, make_log, plain_sql
from social import RESPONSE, Script, everybody
from story import social_record

from matrix_py import _core
from matrix_py.ablation import TABLE, AblateOptions, Ablation, ablate_with
from matrix_py.ablation.report import lines, tables
from matrix_py.cli import main
from matrix_py.errors import ConfigError, StoreError
from matrix_py.replay import replay
from matrix_py.simulate import SimulateOptions, simulate
from matrix_py.store import Log
from matrix_py.types import Limits

SCENES = KEYS[:5]
ENDS = {"condense_memory", "condense_critiques", "consequence", "revise"}


def model() -> Script:
    """Whatever is another prompt has another answer. In the third scene nobody notices anything, and in the fourth there is no harm."""

    def says(turn: _core.Turn) -> str:
        return f"{turn.path} of {_core.blake3(prompt_of(turn).encode()).hex()[:12]}"

    def noticed(turn: _core.Turn) -> str:
        return "nobody" if number_of(turn) == 2 else everybody(turn) if turn.path.startswith("step/1/") else "visitor, owner, bank"

    def criticised(turn: _core.Turn) -> str:
        return "none" if number_of(turn) == 3 else harms(turn)

    def chosen(turn: _core.Turn) -> str:
        names = [name for name in noticed(turn).split(", ") if f'"{name}"' in (turn.sampling.form or "")]
        return ", ".join(names) or "nobody"

    rules = dict.fromkeys(("react", "act", "condense_memory", "condense_critiques", "consequence", "revise"), says)
    return Script({**rules, "critique": criticised, "recipients": chosen})


def simulated(path: Path, **limits: int) -> Script:
    script = model()
    with make_log(path, [(text, RESPONSE) for text in SCENES], record=social_record(**limits)) as log:
        drive(log, script)
    return script


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "run.duckdb"
    simulated(path, interactions=16)
    return path


def cut(run: Path, out: Path, script: Script | None = None, **options: object) -> Ablation:
    with Log.open(run, read_only=True) as log:
        return ablate_with(log, script or model(), AblateOptions(out, **options), window=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [1, 3, 7, 16])
def test_a_cut_scene_is_event_for_event_the_one_of_the_smaller_limit(run: Path, tmp_path: Path, value: int) -> None:
    script = model()
    cut(run, tmp_path / "cut", script, interactions=(value,))
    whole = simulated(tmp_path / "anew.duckdb", interactions=value)

    events = "SELECT position, seq, payload, hash FROM events JOIN scenes USING (scene) ORDER BY ALL"
    assert plain_sql(tmp_path / "cut" / f"interactions-{value}.duckdb", events) == plain_sql(tmp_path / "anew.duckdb", events)
    with (
        Log.open(tmp_path / "cut" / f"interactions-{value}.duckdb", read_only=True) as one,
        Log.open(tmp_path / "anew.duckdb", read_only=True) as other,
    ):
        assert one.root() == other.root()
    assert replay(tmp_path / "cut" / f"interactions-{value}.duckdb").identical
    # And the model was asked for ends alone.
    assert {turn.kind for turn in script.turns} <= ENDS
    assert len(script.turns) < len(whole.turns) / 4
    if value == 16:
        assert not script.turns


def test_the_table_says_what_the_logs_say(run: Path, tmp_path: Path) -> None:
    found = cut(run, tmp_path / "cut", interactions=(1, 7, 16))
    table = f"'{tmp_path / 'cut' / TABLE}'"

    for arm in found.arms:
        log = tmp_path / "cut" / f"interactions-{arm.value}.duckdb"
        assert arm.path == log
        said = plain_sql(
            log,
            "SELECT s.scene, s.state, s.interactions, s.kept, s.revision IS NOT NULL, "
            "(SELECT count(*) FROM action a WHERE a.scene = s.scene AND a.critique IS NOT NULL), coalesce(s.revision, s.response) "
            "FROM scene s ORDER BY s.scene",
        )
        columns = "scene, state, interactions, kept, revised, critiques, answer"
        query = f"""SELECT {columns} FROM {table} WHERE "limit" = 'interactions' AND value = {arm.value} ORDER BY scene"""
        assert plain_sql(log, query) == said
        sums = f"""SELECT count(*), sum(interactions), sum(critiques), count(*) FILTER (kept), sum(reused_turns), sum(live_turns),
            avg(distance) FROM {table} WHERE "limit" = 'interactions' AND value = {arm.value}"""
        of = arm.totals
        [(*counts, mean)] = plain_sql(log, sums)
        assert counts == [of.scenes, of.interactions, of.critiques, of.kept, of.reused_turns, of.live_turns]
        assert mean == pytest.approx(of.distance.mean)
    first, seventh, last = (arm.totals for arm in found.arms)
    assert (last.distance.mean, last.moved, last.live_turns) == (0.0, 0, 0)
    assert (found.run.scenes, found.run.critiques, found.run.live_turns) == (5, last.critiques, 0)
    assert first.critiques < seventh.critiques < last.critiques
    assert first.moved == 4  # whoever was revised has heard of less
    # Of the third scene, five acts that nobody notices: it ends by itself where more might have taken place.
    [(censored,)] = plain_sql(run, f"""SELECT list(DISTINCT position) FROM {table} WHERE censored AND value = 7""", read_only=True)
    assert (censored, seventh.censored, first.censored) == ([2], 1, 0)


def test_roles_are_simulated_live_with_nested_casts(run: Path, tmp_path: Path) -> None:
    script = model()
    found = cut(run, tmp_path / "cut", script, roles=(1, 3, 5))

    assert [arm.is_live for arm in found.arms] == [True] * 3
    casts = [
        plain_sql(arm.path, "SELECT position, list(role ORDER BY rank) FROM role JOIN scene USING (scene) GROUP BY ALL ORDER BY ALL")
        for arm in found.arms
    ]
    full = dict(casts[2])
    assert [len(cast) for cast in dict(casts[0]).values()] == [2] * 5
    for cast in (*casts[0], *casts[1]):
        assert cast[1] == full[cast[0]][: len(cast[1])]
    assert found.arms[2].totals.live_turns == 0
    # The modulator is shown the cast, so that its turns run; what comes before is the log's.
    one = [(scene, path) for scene, path in plain_sql(found.arms[0].path, "SELECT scene, path FROM completions WHERE source = 'model'")]
    assert not any(path.startswith("cast/") for _, path in one)
    anew = tmp_path / "anew.duckdb"
    simulated(anew, roles=1, interactions=16)
    events = "SELECT position, seq, payload, hash FROM events JOIN scenes USING (scene) ORDER BY ALL"
    assert plain_sql(found.arms[0].path, events) == plain_sql(anew, events)


def test_open_scenes_are_left_out_and_the_first_of_the_others_taken(tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    script = model()
    with make_log(run, [(text, RESPONSE) for text in SCENES], record=social_record(interactions=16)) as log:
        lost = Script({**script._rules, "revise": lambda turn: RuntimeError("gone") if number_of(turn) == 1 else "Better."})
        drive(log, lost)
    found = cut(run, tmp_path / "cut", interactions=(2,), limit=3)
    assert (found.unfinished, found.run.scenes, found.arms[0].totals.scenes) == (1, 2, 2)


def test_what_cannot_be_cut_is_refused_before_anything_is_written(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "cut"
    for options, reason in (
        ({}, "there is no limit to see the scenes under"),
        ({"interactions": (4, 17)}, "--interactions is 17, and the scenes of .* were made with 16 at most"),
        ({"interactions": (0,)}, "--interactions is 0: give 1 to"),
        ({"roles": (99,)}, "--roles is 99: give 1 to 16"),
        ({"interactions": (4,), "limit": 0}, "--limit is 0"),
    ):
        with pytest.raises(ConfigError, match=reason):
            cut(run, out, **options)
    other = tmp_path / "other.duckdb"
    with make_log(other, SCENES[:1], record=social_record("critique-revise")) as log:
        drive(log, Script())
    with pytest.raises(ConfigError, match="only social scenes can be cut"):
        cut(other, out, interactions=(1,))
    assert not out.exists()
    cut(run, out, interactions=(2,))
    with pytest.raises(StoreError, match=r"interactions-2.duckdb exists"):
        cut(run, out, interactions=(2, 3))
    assert not (out / "interactions-3.duckdb").exists()
    cut(run, out, interactions=(2, 3), overwrite=True)


def test_what_is_printed_fits_a_screen_and_names_what_ran_live(run: Path, tmp_path: Path) -> None:
    found = cut(run, tmp_path / "cut", interactions=(1, 16), roles=(1,))
    [(columns, rows), (live, _)] = tables(found)
    assert (columns, live) == (["interactions", "the run", "1", "16"], ["roles (live)", "the run", "1"])
    shown = {name: cells for name, *cells in rows}
    assert shown["actions a scene"][1] == "1.0"
    assert shown["distance from the run"][::2] == ["0.000", "0.000"]
    assert shown["turns live"][0] == ""
    assert shown["turns live"][2] == 0
    assert max(len(name) for name in shown) + 7 * 8 <= 80
    assert any("only what follows the cut ran live" in line for line in lines(found))
    assert any("simulated live" in line for line in lines(found))


def test_the_command_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.csv").write_text("instruction\nHow do I open my neighbour's door without a key?\n", "utf-8")
    run = tmp_path / "run.duckdb"
    simulate(SimulateOptions((str(tmp_path / "input.csv"),), run, limits=Limits(roles=1, steps=2), engine=EMBEDDED))
    command = ["ablate", str(run), "--threads", "1", "-q", "--out", str(tmp_path / "cut")]

    assert main([*command, "--interactions", "1,16", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [(each["limit"], each["value"], each["live"]) for each in document["limits"]] == [
        ("interactions", 1, False),
        ("interactions", 16, False),
    ]
    assert document["limits"][0]["interactions"] == 1
    assert document["limits"][1]["live_turns"] == 0
    assert main([*command, "--interactions", "1;2"]) == 2
    assert "give whole numbers with commas between them" in capsys.readouterr().err
