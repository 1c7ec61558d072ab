"""Training: what is learnt, packed rows that do not see one another, and a curve that kills and full disks do not change."""

import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from matrix_py.errors import TuningError
from matrix_py.testing.random_gguf import write_random_gguf
from matrix_py.tune.base import open_base
from matrix_py.tune.job import ADAPTER, METRICS, Job, Rows, Tokens, last_checkpoint, write_job
from matrix_py.tune.messages import AnyMessage, Finished, HeldOut, Saved, Started, Step, read_messages
from matrix_py.tune.options import Recipe, recipe_options
from matrix_py.tune.rows import num_packs
from matrix_py.tune.worker import run_job

# Of torch, transformers, peft and trl, in this process.
pytestmark = pytest.mark.filterwarnings("ignore")


class KilledError(Exception):
    """What a test raises to have the training killed."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_gguf(tmp_path_factory.mktemp("base") / "base.gguf")


def some_rows(count: int, seed: int) -> list[Tokens]:
    dice = random.Random(seed)
    lengths = [dice.randrange(8, 48) for _ in range(count)]
    return [Tokens([dice.randrange(3, 200) for _ in range(length)], dice.randrange(2, length - 3)) for length in lengths]


ROWS = Rows(some_rows(24, 1), some_rows(9, 2))


def begin(folder: Path, model: Path, rows: Rows = ROWS, **given: object) -> Job:
    """Write a job."""
    settings = {"rank": 4, "alpha": 8, "rate": 1e-3, "max_tokens": 96, "accumulation": 2, "epochs": 2.0, "threads": 1} | given
    options = recipe_options(Recipe.DEFAULT, **settings)
    with open_base(str(model)) as base:
        job = Job(tuning="t", base=str(model), base_hash=base.hash, chat_template=None, dataset="", options=options)
    write_job(folder, job, rows)
    return job


def curve(folder: Path) -> list[tuple[int, float]]:
    """What was measured, in order, bit for bit."""
    measured = read_messages(folder / ADAPTER / METRICS)
    return [(each.step, each.loss) for each in measured if isinstance(each, Step | HeldOut)]


def trained(folder: Path, job: Job) -> list[AnyMessage]:
    """Train in this process."""
    from matrix_py.tune.training import train

    said: list[AnyMessage] = []
    train(folder, job, said.append)
    return said


def alone(model: Path, rows: list[Tokens], *, together: bool = False) -> float:
    """The loss of a base on completions: each row by itself, or all of them as one text."""
    import torch

    with open_base(str(model)) as base:
        network = base.load(torch.float32)
    sequences = [[token for row in rows for token in row.ids]] if together else [row.ids for row in rows]
    total, count = 0.0, 0
    with torch.no_grad():
        scores = [torch.log_softmax(network(torch.tensor([ids])).logits[0], -1) for ids in sequences]
    joined = torch.cat(scores)
    start = 0
    for row in rows:
        for place in range(row.prompt, len(row.ids)):
            total -= joined[start + place - 1, row.ids[place]].item()
            count += 1
        start += len(row.ids)
    return total / count


@pytest.mark.parametrize(
    ("longest", "given", "tokens"),
    [
        (40, {}, 512),
        (700, {}, 700),
        (900, {"max_tokens": 800}, 800),
        (40, {"packing": False}, 2048),
    ],
)
def test_a_pack_is_no_longer_than_the_longest_row_needs(longest: int, given: dict[str, object], tokens: int) -> None:
    rows = Rows([Tokens([3] * 8, 2)], [Tokens([3] * longest, 2)])

    assert rows.sequence_tokens(recipe_options(Recipe.DEFAULT, **given)) == tokens


def test_the_loss_is_on_completions_alone_and_packed_rows_do_not_see_one_another(tmp_path: Path, model: Path) -> None:
    by_itself, as_one_text = alone(model, ROWS.held_out), alone(model, ROWS.held_out, together=True)
    losses = {}
    for packing in (True, False):
        folder = tmp_path / f"packing-{packing}"
        said = trained(folder, begin(folder, model, packing=packing, batch=1 if packing else 4))
        losses[packing] = next(each.loss for each in said if isinstance(each, HeldOut))
        [started] = [each for each in said if isinstance(each, Started)]
        lengths = [len(row.ids) for row in ROWS.train]
        assert started.sequences == (num_packs(lengths, 96) if packing else len(lengths))
        # Padding is not counted.
        [finished] = [each for each in said if isinstance(each, Finished)]
        assert finished.num_tokens == 2 * sum(lengths)
    assert losses[True] == pytest.approx(by_itself, rel=1e-6)
    assert losses[False] == pytest.approx(by_itself, rel=1e-6)
    # Else nothing would be shown: where rows see one another, the loss is another.
    assert as_one_text != pytest.approx(by_itself, rel=1e-3)


def killing_behind(step: int) -> Callable[[AnyMessage], None]:
    def on_message(message: AnyMessage) -> None:
        if isinstance(message, Step) and message.step == step:
            raise KilledError

    return on_message


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file may grow beyond this, for processes started meanwhile: a write fails as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_kill_and_a_full_disk_change_nothing_of_the_curve_nor_of_the_adapter(tmp_path: Path, model: Path) -> None:
    # Dropout: its random numbers, too, go on where they were.
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    job = begin(calm, model, dropout=0.2, checkpoint_every=2)
    trained(calm, job)

    begin(rough, model, dropout=0.2, checkpoint_every=2)
    with pytest.raises(KilledError):
        run_job(rough, job, killing_behind(3))
    assert [path.name for path in [last_checkpoint(rough)] if path] == ["checkpoint-2"]

    with small_disk(30_000), pytest.raises(TuningError) as refused:
        run_job(rough, job, lambda message: None)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"the checkpoint of step 4 cannot be written to {rough}")
    assert "the checkpoint of step 2 is whole" in str(refused.value)
    assert "--resume" in str(refused.value)

    said: list[AnyMessage] = []
    finished = run_job(rough, job, said.append)

    assert not finished.stopped
    [started] = [each for each in said if isinstance(each, Started)]
    assert started.step == 2
    assert [each.step for each in said if isinstance(each, Saved)][-1] == started.steps == finished.step
    assert curve(rough) == curve(calm)
    weights = [(folder / ADAPTER / "adapter_model.safetensors").read_bytes() for folder in (calm, rough)]
    assert weights[0] == weights[1]


def test_a_tuning_goes_on_only_as_it_was_begun_but_for_threads_and_checkpoints(tmp_path: Path, model: Path) -> None:
    job = begin(tmp_path, model)
    options = job.options

    assert job.differences(msgspec.structs.replace(job, tuning="another", options=replace(options, threads=2, checkpoint_every=3))) == []
    assert job.differences(msgspec.structs.replace(job, chat_template="chatml")) == ["chat_template None, not chatml"]
    assert job.differences(msgspec.structs.replace(job, options=replace(options, seed=9))) == ["seed 0, not 9"]
