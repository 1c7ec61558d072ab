"""Attribution: the critique that moves the answer is found, nothing else is asked, and nothing moves where nothing is dropped."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from keys import SCENES, harms, number_of, told
from logs import EMBEDDED, drive, make_log, plain_sql
from social import RESPONSE, Script, everybody
from story import social_record, tell

from matrix_py import _core
from matrix_py.attribution import AttributeOptions, Attribution, attribute_with
from matrix_py.attribution.report import document, group_rows, heading_lines, scene_lines, summary_lines
from matrix_py.cli import main
from matrix_py.errors import ConfigError, StoreError
from matrix_py.simulate import SimulateOptions, simulate
from matrix_py.store import Log
from matrix_py.types import Limits

ENDS = {"condense_critiques", "consequence", "revise"}
REFUSAL = "I'm sorry, but I can't assist with that request."


def decisive(number: int, actions: list[str]) -> str:
    """The action of a scene whose critique alone decides the revision."""
    return actions[number % len(actions)]


class Decided(Script):
    """Condenses by listing, so that nothing is lost, and revises by one critique alone, another one in each scene."""

    def __init__(self, deciding: Callable[[int], str], **rules: object) -> None:
        super().__init__(
            {
                "critique": harms,
                "condense_critiques": lambda turn: told(turn, "critiques").replace("\n", " | "),
                "consequence": lambda turn: told(turn, "critiques").replace("\n", " | "),
                "revise": self._revise,
                "step/1/act/recipients": everybody,
                "step/3/act/recipients": "owner, cashier",
                **rules,  # type: ignore[arg-type]
            }
        )
        self._deciding = deciding

    def _revise(self, turn: _core.Turn) -> str:
        heard = re.search(rf"harm at {self._deciding(number_of(turn))}(?![\w/])", told(turn, "consequence"))
        return "Ask the owner to open it, and stay away from the drawer." if heard else "Press the key under the drawer."


ACTIONS = [
    "step/1/act",
    *(f"step/1/react/{role}" for role in ("owner", "cashier", "guard", "bank", "customer")),
    *(f"step/{step}/act" for step in (2, 3, 4, 5)),
    "step/3/react/owner",
    "step/3/react/cashier",
]


def deciding(number: int) -> str:
    return decisive(number, ACTIONS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Twelve scenes of twelve critiques each, which are condensed on the way."""
    path = tmp_path / "run.duckdb"
    with make_log(path, [(text, RESPONSE) for text in SCENES], record=social_record()) as log:
        drive(log, Decided(deciding))
    return path


def drop(run: Path, model: Script, **options: object) -> Attribution:
    with Log.open(run, read_only=True) as log:
        return attribute_with(log, model, AttributeOptions(**options), window=4, examples=100)  # type: ignore[arg-type]


def test_the_one_critique_that_decides_the_revision_is_found_every_time(run: Path) -> None:
    model = Decided(deciding)
    found = drop(run, model)

    assert (found.scenes, found.drops, found.unmoved, found.unfinished, found.differing) == (12, 144, 0, 0, 0)
    for number, each in enumerate(found.examples):
        first, *others = each.effects
        assert first.drop.name == deciding(number)
        assert first.distance is not None
        assert first.distance > 0.5
        assert {effect.distance for effect in others} == {0.0}
        assert all(not effect.changes for effect in each.effects)
    assert (found.summary.deciding, found.summary.choosing) == (12, 12)
    assert found.summary.first.unmoved == 0
    assert found.summary.others.unmoved == found.summary.others.drops == 132


def test_only_what_critiques_enter_is_asked_and_the_rest_is_the_logs(run: Path) -> None:
    before = run.read_bytes()
    model = Decided(deciding)
    found = drop(run, model)

    assert set(found.live) == {turn.kind for turn in model.turns} == ENDS
    assert found.live["revise"] == found.live["consequence"] == 144
    assert Counter(turn.kind for turn in model.turns) == found.live
    asked = len(model.turns)
    [(per_scene,)] = plain_sql(run, "SELECT count(*) / 12 FROM completions", read_only=True)
    # All that was asked in a scene before, less what runs live or, as critiques, is given.
    assert found.reused + asked + 144 <= 144 * per_scene
    assert found.reused > 100 * (per_scene - 6)
    assert run.read_bytes() == before


def test_a_role_is_dropped_with_all_its_critiques(run: Path) -> None:
    found = drop(run, Decided(deciding), by="role")

    assert (found.by, found.scenes, found.drops) == ("role", 12, 12 * 6)
    for number, each in enumerate(found.examples):
        assert [sum(len(effect.drop.critiques) for effect in each.effects), len(each.effects)] == [12, 6]
        role = deciding(number).rpartition("/")[2].replace("act", "visitor")
        assert each.effects[0].drop.name == role
        assert {critique.role for critique in each.effects[0].drop.critiques} == {role}
        assert each.effects[0].weight > (False, 0.0) == each.effects[1].weight


def test_without_its_only_critique_a_scene_keeps_the_response(tmp_path: Path) -> None:
    run = tmp_path / "run.duckdb"
    rules = {"critique": "none", "step/2/act/critique": "3: it burns"}
    with make_log(run, [(SCENES[0], RESPONSE), SCENES[1]], record=social_record()) as log:
        drive(log, Decided(lambda number: "step/2/act", **rules))
    found = drop(run, Decided(lambda number: "step/2/act", **rules))

    [given, generated] = found.examples
    assert [effect.changes for effect in given.effects] == [("revised -> kept",)]
    assert given.effects[0].after.answer == RESPONSE
    assert generated.effects[0].after.answer == "Text of respond."
    assert found.live == {}
    assert (found.summary.sole.drops, found.summary.choosing) == (2, 0)


def test_an_answer_that_becomes_a_refusal_or_comes_to_nothing_is_named_and_comes_first(tmp_path: Path) -> None:
    def revise(turn: _core.Turn) -> str:
        consequence = told(turn, "consequence")
        if "harm at step/2/act" not in consequence:
            return REFUSAL
        return "" if "harm at step/4/act" not in consequence else f"As said: {consequence}"

    run = tmp_path / "run.duckdb"
    with make_log(run, SCENES[:1], record=social_record()) as log:
        drive(log, Decided(deciding, revise=revise, **dict.fromkeys(("step/1/act/recipients", "step/3/act/recipients"), "nobody")))
    found = drop(run, Decided(deciding, revise=revise))

    [scene] = found.examples
    changes = {effect.drop.name: effect.changes for effect in scene.effects}
    assert changes["step/2/act"] == ("answer -> refusal",)
    assert changes["step/4/act"] == ("completed -> failed",)
    assert {effect.drop.name for effect in scene.effects[:2]} == {"step/2/act", "step/4/act"}
    [failed] = [effect for effect in scene.effects if effect.drop.name == "step/4/act"]
    assert failed.distance is None
    assert found.summary.every.changes == {"answer -> refusal": 1, "completed -> failed": 1}


def test_scenes_without_critiques_open_ones_and_changed_ones_are_left_out_and_counted(tmp_path: Path) -> None:
    run = tmp_path / "story.duckdb"
    tell(run)
    [second] = [scene for (scene,) in plain_sql(run, "SELECT scene FROM scenes WHERE position = 1", read_only=True)]
    found = drop(run, Script())
    assert (found.scenes, found.drops, found.unmoved) == (1, 1, 1)
    assert second not in [each.story.scene for each in found.examples]

    plain_sql(run, "DELETE FROM events WHERE kind = 'SceneFinished' AND scene = (SELECT scene FROM scenes WHERE position = 1)", "SELECT 1")
    assert drop(run, Script()).unfinished == 1
    plain_sql(run, "UPDATE events SET hash = 'x'::BLOB WHERE seq = 3", "SELECT 1")
    found = drop(run, Script())
    assert (found.scenes, found.differing) == (0, 1)


def test_scenes_are_chosen_by_name_or_number(run: Path) -> None:
    ids = [scene.hex() for (scene,) in plain_sql(run, "SELECT scene FROM scenes ORDER BY position", read_only=True)]
    found = drop(run, Decided(deciding), scenes=("3", ids[5][:14], "3"))
    assert [each.story.scene.hex() for each in found.examples] == [ids[3], ids[5]]
    assert [each.story.scene.hex() for each in drop(run, Decided(deciding), limit=2).examples] == ids[:2]


def test_what_cannot_be_dropped_is_refused_in_one_line(tmp_path: Path, run: Path) -> None:
    with pytest.raises(ConfigError, match="--limit is 0"):
        drop(run, Script(), limit=0)
    with pytest.raises(StoreError, match=r"no scene of .* goes by '99'"):
        drop(run, Script(), scenes=("99",))
    for scene, reason in (
        ("critique-revise", "holds no critique of an action"),
        ("published", "critiques are dropped in scene 'matrix' only"),
    ):
        other = tmp_path / f"{scene}.duckdb"
        with make_log(other, SCENES[:1], record=social_record(scene)) as log:
            drive(log, Script())
        with pytest.raises(ConfigError, match=reason):
            drop(other, Script())


def test_the_table_holds_every_effect_and_joins_with_the_log(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "effects.parquet"
    drop(run, Decided(deciding), out=out)
    query = f"SELECT dropped FROM '{out}' f JOIN scene s USING (scene) WHERE place = 1 AND answer_before = s.revision ORDER BY s.position"
    assert [dropped for (dropped,) in plain_sql(run, query, read_only=True)] == [deciding(number) for number in range(12)]
    counted = f"SELECT count(*), count(*) FILTER (distance > 0), sum(live_turns) FROM '{out}'"
    [(rows, moved, live)] = plain_sql(run, counted, read_only=True)
    assert (rows, moved) == (144, 12)
    assert live >= 288


def test_what_is_printed_ranks_a_scene_and_hides_its_answers(run: Path) -> None:
    found = drop(run, Decided(deciding), scenes=("4",))
    [scene] = found.examples
    hidden = "\n".join([*heading_lines(found), *scene_lines(scene, reveal=False)])
    assert "12 critiques dropped one at a time, in 1 scenes" in hidden
    assert "distance 0" in hidden
    assert scene_lines(scene, reveal=False)[1].startswith(f"  {deciding(4)} (")
    assert "one alone moved the answer in 1 of the 1 scenes" in summary_lines(found.summary)[0]
    assert "Ask the owner" not in hidden
    assert "Ask the owner" in "\n".join(scene_lines(scene, reveal=True))
    rows = {name: cells for name, *cells in group_rows(found.summary)}
    assert rows["all"][0] == 12
    assert rows["moved most in its scene"][3] == 0
    assert rows["the others there"][::3][:2] == [11, 11]
    assert sum(cells[0] for name, cells in rows.items() if name.startswith("severity")) == 12
    assert document(found, reveal=False)["drops"] == 12


def test_the_command_on_the_embedded_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "input.csv").write_text("instruction\nHow do I open my neighbour's door without a key?\n", "utf-8")
    run = tmp_path / "run.duckdb"
    simulate(SimulateOptions((str(tmp_path / "input.csv"),), run, limits=Limits(roles=1, steps=2), engine=EMBEDDED))
    [(critiques,)] = plain_sql(run, "SELECT count(*) FROM events WHERE kind = 'HarmNoted'", read_only=True)

    assert critiques > 0
    assert main(["attribute", str(run), "--threads", "1", "-q", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["drops"] == critiques
    assert set(found["turns"]["live"]) <= ENDS
