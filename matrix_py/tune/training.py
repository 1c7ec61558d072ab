"""Training itself: TRL's SFTTrainer on rows that are tokens already."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from matrix_py.errors import TuningError
from matrix_py.tune.base import open_base
from matrix_py.tune.job import ADAPTER, CHECKPOINT, METRICS, Job, Rows, Tokens, checkpoint_step, last_checkpoint, read_rows
from matrix_py.tune.messages import AnyMessage, Finished, HeldOut, Saved, Started, Step, read_messages, write_messages
from matrix_py.tune.options import TuneOptions

# What a checkpoint or an adapter goes by until it is whole.
_PARTIAL = "partial"
_IGNORED = -100  # by the loss
# Checkpoints and evaluations in all, where nothing else is asked for; a checkpoint is not written for fewer steps than these.
_CHECKPOINTS, _EVALUATIONS, _FEWEST = 10, 4, 10
_PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate")

Tell = Callable[[AnyMessage], None]


def train(folder: Path, job: Job, tell: Tell, *, stopping: Callable[[], bool] = lambda: False) -> None:
    """Do a job, from its last checkpoint on, and write the adapter into its folder.

    Args:
        folder: the job's.
        job: what is to be done.
        tell: who is told how it goes; called in the first process only.
        stopping: asked behind each step: whether to write a checkpoint and end.

    Raises:
        ConfigError: the base cannot be quantised here.
        ModelError: the base cannot be loaded.
        TuningError: a checkpoint or the adapter cannot be written.
    """
    disable_progress_bars()
    options = job.options
    gpu = torch.cuda.is_available()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    half = gpu if options.bf16 is None else options.bf16
    with open_base(job.base, chat_template=job.chat_template) as base:
        model = base.load(torch.bfloat16 if half else torch.float32, quantized=options.qlora)
    # All is there now. With each checkpoint, PEFT would ask a hub what is known of the base's name.
    os.environ["HF_HUB_OFFLINE"] = "1"
    course = _Course(folder, options, tell, stopping)
    rows = read_rows(folder)
    trainer = _Trainer(course, model, rows, _arguments(folder, options, rows.sequence_tokens(options), gpu=gpu, half=half))
    if trainer.accelerator.num_processes != options.processes:
        raise TuningError(f"--processes is {options.processes}, and {trainer.accelerator.num_processes} came up: give what the machine has")
    with course.clock:
        trainer.train(resume_from_checkpoint=None if course.checkpoint is None else str(course.checkpoint))
    if not course.stopped:
        trainer.write_adapter()
    trainer.tell(
        Finished(
            stopped=course.stopped,
            step=trainer.state.global_step,
            num_tokens=course.num_tokens,
            seconds=course.clock.seconds,
            peak_bytes=torch.cuda.max_memory_allocated() if gpu else _peak_bytes(),
            versions={name: version(name) for name in _PACKAGES},
        )
    )


class _Clock:
    """Seconds of training, without evaluations, checkpoints and the time before a resumption."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since: float | None = None

    @property
    def seconds(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.monotonic() - self._since)

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._seconds, self._since = self.seconds, None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()


class _Course:
    """How far a training is, beside what its trainer knows of itself: what was measured, and when to do what."""

    def __init__(self, folder: Path, options: TuneOptions, tell: Tell, stopping: Callable[[], bool]) -> None:
        self.folder, self.options, self.tell, self.stopping = folder, options, tell, stopping
        self.checkpoint = last_checkpoint(folder)
        self.measured = [] if self.checkpoint is None else read_messages(self.checkpoint / METRICS)
        self.stopped = False
        before = self._last_step()
        self.clock = _Clock(0.0 if before is None else before.seconds)
        # TRL counts from where it was started.
        self.tokens_before = self.num_tokens

    @property
    def num_tokens(self) -> int:
        last = self._last_step()
        return 0 if last is None else last.num_tokens

    def _last_step(self) -> Step | None:
        return next((each for each in reversed(self.measured) if isinstance(each, Step)), None)

    def evaluates(self, step: int, steps: int) -> bool:
        return step == steps or step % -(-steps // _EVALUATIONS) == 0

    def saves(self, step: int, steps: int) -> bool:
        every = self.options.checkpoint_every or max(_FEWEST, -(-steps // _CHECKPOINTS))
        return step == steps or step % every == 0


class _Trainer(SFTTrainer):
    """TRL's trainer, with checkpoints that are whole or not there, and a held-out loss that is a mean over tokens."""

    def __init__(self, course: _Course, model: Any, rows: Rows, arguments: SFTConfig) -> None:
        self.course = course
        self.control: Any
        self._num_parameters = model.num_parameters()
        options = course.options
        super().__init__(
            model,
            args=arguments,
            train_dataset=_dataset(rows.train),
            eval_dataset=_dataset(rows.held_out) if rows.held_out else None,
            processing_class=_no_tokenizer(),
            peft_config=LoraConfig(
                r=options.rank,
                lora_alpha=options.alpha,
                lora_dropout=options.dropout,
                target_modules=list(options.targets),
                task_type="CAUSAL_LM",
            ),
            callbacks=[_Steps(self)],
        )
        self.remove_callback(PrinterCallback)

    def tell(self, message: AnyMessage) -> None:
        """Say it once, however many processes there are."""
        if self.is_world_process_zero():
            self.course.tell(message)

    def begin(self) -> None:
        """Say what is to be done, now that the number of steps is known, and evaluate the base."""
        self.tell(
            Started(
                steps=self.state.max_steps,
                step=self.state.global_step,
                sequences=len(self.train_dataset),
                trainable=sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad),
                parameters=self._num_parameters,
                device=torch.cuda.get_device_name() if self.args.device.type == "cuda" else f"CPU, threads: {torch.get_num_threads()}",
            )
        )
        if self.course.checkpoint is None and self.eval_dataset is not None:
            self.evaluate()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Take what was measured of a step."""
        super().log(logs, start_time)
        if "learning_rate" not in logs:
            return  # the summary at the end
        message = Step(
            step=self.state.global_step,
            epoch=self.state.epoch or 0.0,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            grad_norm=logs.get("grad_norm"),
            num_tokens=self.course.tokens_before + round(logs["num_tokens"]),
            seconds=self.course.clock.seconds,
        )
        self.course.measured.append(message)
        self.tell(message)

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Evaluate the held-out rows: the mean over all their tokens, however they lie in batches, which TRL's own is not."""
        with self.course.clock.paused():
            self.model.eval()
            total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
            one = torch.tensor(1, device=self.args.device)
            for inputs in self.get_eval_dataloader():
                batch = self._prepare_inputs(inputs)
                learnt = (batch["labels"][..., 1:] != _IGNORED).sum()
                with self.compute_loss_context_manager():
                    loss = self.compute_loss(self.model, batch, num_items_in_batch=one)  # the sum over its tokens
                total += torch.stack([loss.double() / self.accelerator.num_processes, learnt.double()])
            total = self.accelerator.reduce(total, "sum")
            self._metrics["eval"].clear()
            self.model.train()
        message = HeldOut(step=self.state.global_step, loss=(total[0] / total[1]).item())
        self.course.measured.append(message)
        self.tell(message)
        found = {"eval_loss": message.loss}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def _get_output_dir(self, trial: Any) -> str:
        """Return where a checkpoint is written."""
        return str(self.course.folder / _PARTIAL)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step, folder = self.state.global_step, self.course.folder
        partial = folder / _PARTIAL / f"{CHECKPOINT}{step}"
        with self.course.clock.paused(), _written(f"the checkpoint of step {step}", folder):
            if self.is_world_process_zero():
                shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                write_messages(partial / METRICS, self.course.measured)
                _put(partial, folder / partial.name)
                for old in folder.glob(f"{CHECKPOINT}*"):
                    if checkpoint_step(old) != step:
                        shutil.rmtree(old, ignore_errors=True)
        self.tell(Saved(step=step))

    def write_adapter(self) -> None:
        """Write the adapter, with what was measured."""
        if not self.is_world_process_zero():
            return
        folder = self.course.folder
        with _written("the adapter", folder):
            shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
            self.accelerator.unwrap_model(self.model).save_pretrained(folder / _PARTIAL, save_embedding_layers=False)
            (folder / _PARTIAL / "README.md").unlink(missing_ok=True)  # PEFT's own, an empty form
            write_messages(folder / _PARTIAL / METRICS, self.course.measured)
            _put(folder / _PARTIAL, folder / ADAPTER)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write none: the card says more than TRL knows."""


class _Steps(TrainerCallback):
    """Decides what follows each step."""

    def __init__(self, trainer: _Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.begin()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        course = self._trainer.course
        control.should_evaluate = self._trainer.eval_dataset is not None and course.evaluates(state.global_step, state.max_steps)
        control.should_save = course.saves(state.global_step, state.max_steps)
        if state.global_step < state.max_steps and course.stopping():
            course.stopped = control.should_save = control.should_training_stop = True


def _arguments(folder: Path, options: TuneOptions, sequence_tokens: int, *, gpu: bool, half: bool) -> SFTConfig:
    return SFTConfig(
        output_dir=str(folder / _PARTIAL),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch,
        per_device_eval_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.rate,
        lr_scheduler_type="cosine",
        warmup_steps=options.warmup,
        weight_decay=0.0,
        max_length=sequence_tokens,
        packing=options.packing,
        bf16=half,
        gradient_checkpointing=gpu if options.checkpointing is None else options.checkpointing,
        seed=options.seed,
        use_cpu=not gpu,
        logging_steps=1,
        # What a step came to is recorded as it is.
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
    )


def _dataset(rows: list[Tokens]) -> Dataset:
    return Dataset.from_dict(
        {
            "input_ids": [row.ids for row in rows],
            "labels": [[_IGNORED] * row.prompt + row.ids[row.prompt :] for row in rows],
        }
    )


def _no_tokenizer() -> PreTrainedTokenizerFast:
    """Return what TRL asks for padding; the rows are tokens already, and padding is masked, whatever token it is."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"-": 0}, unk_token="-")), pad_token="-", eos_token="-")


@contextlib.contextmanager
def _written(what: str, folder: Path) -> Iterator[None]:
    """Say in one line what could not be written, and what is left; the libraries that write each have errors of their own."""
    try:
        yield
    except Exception as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else " ".join(str(error).split())
        last = last_checkpoint(folder)
        left = "nothing was there before" if last is None else f"the checkpoint of step {checkpoint_step(last)} is whole"
        raise TuningError(f"{what} cannot be written to {folder} ({reason}): {left}; free room, and go on with --resume") from error


def _put(partial: Path, path: Path) -> None:
    """Give a folder its name when all of it is on the disk."""
    for file in [*partial.rglob("*"), partial]:
        number = os.open(file, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
    shutil.rmtree(path, ignore_errors=True)
    partial.rename(path)


def _peak_bytes() -> int:
    """Return the most memory that this process had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
