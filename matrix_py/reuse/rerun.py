"""Running scenes of a log again, into a new one: with other limits, prompts or edits, and what does not change taken from the first."""

import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import structs

from matrix_py.pump import Answerer
from matrix_py.reuse.answering import Reuse, changed_fields, parent_of
from matrix_py.reuse.edits import Edits
from matrix_py.scene import find_scene
from matrix_py.scene.rules import check_rules
from matrix_py.simulate import Reporter, RunSummary, recorded_prompts, run
from matrix_py.store import Log, SceneLister, listed_scenes
from matrix_py.types import Change, Edit, Execution, RunConfig, RunRecord


def rerun(
    parent: Log,
    out: Path,
    answerer: Answerer,
    *,
    config: RunConfig | None = None,
    scenes: Sequence[bytes] | None = None,
    edits: Sequence[Edit] = (),
    kept_before: str = "",
    reuse: bool = True,
    execution: Execution | None = None,
    window: int = 16,
    overwrite: bool = False,
    reporter: Reporter | None = None,
    stats: Callable[[], dict[str, int]] = dict,
) -> RunSummary:
    """Run scenes of a log again, and write them to a new log that names the first as its parent, and what was changed.

    A scene keeps its identity, and with it its random numbers: a turn that is asked in the same words is taken from the parent. The log
    is an ordinary one: it replays, and can be resumed.

    Args:
        parent: the log, opened for reading.
        out: the log to write.
        answerer: answers what the parent does not.
        config: how it is to be run, where that is not as the parent was: other limits, prompts, settings, seed or model.
        scenes: ids of the scenes to run; all, if not given. Their order is the parent's.
        edits: what turns say in the place of what they said.
        kept_before: see `Reuse`.
        reuse: whether turns are taken from the parent; without, edits are made all the same.
        execution: how the run is made; by default as the parent was.
        window: scenes open at a time.
        overwrite: whether `out` may be replaced.
        reporter: told how it goes.
        stats: see `matrix_py.simulate.run`.

    Returns:
        How it ended. `counts.live`, `.reused` and `.edited` are the turns by their kind.

    Raises:
        MatrixError: the parent cannot be read, `out` not be written, or the answerer is gone.
    """
    then = parent.record.config
    config = config or then
    check_rules(config.rules)
    change = Change(config=changed_fields(then, config), edits=Edits(edits).edits, kept_before=kept_before)
    execution = structs.replace(execution or parent.record.execution, parent=parent_of(parent) if reuse else None, change=change)
    record = RunRecord(run_id=str(uuid.uuid4()), config=config, execution=execution)

    def list_scenes(lister: SceneLister) -> None:
        for listed in listed_scenes(parent, scenes):
            lister.add(
                label=listed.label,
                row=listed.row,
                instruction=listed.instruction,
                response=listed.response,
                meta=listed.meta,
                occurrence=listed.occurrence,
            )

    with Log.create(out, record, list_scenes, overwrite=overwrite) as log:
        reusing = Reuse(parent if reuse else None, answerer, config, edits=edits, kept_before=kept_before)
        prompts, function = recorded_prompts(config), find_scene(config.scene)
        return run(log, prompts, function, reusing, window=window, reporter=reporter, stats=stats)
