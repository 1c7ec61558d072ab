"""The same prompts, answered greedily by llama.cpp and by transformers."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import llama_cpp.llama_cpp as ll
import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig

from matrix_py.models.llama import LlamaModel

Tokens = Sequence[Sequence[int]]
F32, F16 = 0, 1  # ggml_type


def llama_says(path: Path, prompts: Tokens, count: int, *, lora: Path | None = None, kv: int = F16) -> tuple[np.ndarray, np.ndarray]:
    """Let llama.cpp answer on a CPU, all prompts at once. Without `kv`, keys and values are as in the engine's contexts.

    Returns:
        Tokens [prompt, step], and the logits that they were chosen by [prompt, step, token].
    """
    with LlamaModel(path, lora=lora) as opened:
        model, num_prompts = opened._model, len(prompts)
        size = ll.llama_vocab_n_tokens(opened.vocab)
        shape = ll.llama_context_default_params()
        shape.n_batch = sum(map(len, prompts))
        shape.n_ctx, shape.n_seq_max = shape.n_batch + count * num_prompts, num_prompts
        shape.kv_unified, shape.flash_attn_type, shape.type_k, shape.type_v = True, 0, kv, kv
        shape.n_threads = shape.n_threads_batch = 1  # these models are too small to share out
        context: Any = ll.llama_init_from_model(model, shape)
        assert context
        if opened.adapter:
            adapters = (ll.llama_adapter_lora_p_ctypes * 1)(opened.adapter)
            assert ll.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) == 0
        logits = np.empty((num_prompts, count, size), dtype=np.float32)
        batch = ll.llama_batch_init(shape.n_batch, 0, 1)
        rows, begins = [list(prompt) for prompt in prompts], [0] * num_prompts
        for step in range(count):
            ends, at = [], 0
            for sequence, row in enumerate(rows):
                for place, token in enumerate(row):
                    batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.seq_id[at][0] = token, begins[sequence] + place, 1, sequence
                    batch.logits[at] = place == len(row) - 1
                    at += 1
                ends.append(at - 1)
                begins[sequence] += len(row)
            batch.n_tokens = at
            assert ll.llama_decode(context, batch) == 0
            for sequence, end in enumerate(ends):
                logits[sequence, step] = np.ctypeslib.as_array(ll.llama_get_logits_ith(context, end), (size,))
            rows = [[int(token)] for token in logits[:, step].argmax(axis=1)]
        ll.llama_batch_free(batch)
        ll.llama_free(context)
    return logits.argmax(axis=2), logits


def transformers_says(model: Any, prompts: Tokens, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Let a model of transformers answer; see `llama_says`."""
    longest = max(map(len, prompts))
    rows = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    # An end that no token is: what comes behind the real one is compared, too.
    how = GenerationConfig(
        max_new_tokens=count, do_sample=False, pad_token_id=0, eos_token_id=-1, return_dict_in_generate=True, output_logits=True
    )
    with torch.no_grad():
        said = model.eval().generate(input_ids=rows, attention_mask=seen, generation_config=how)
    logits = torch.stack(said.logits, dim=1).float().numpy()
    return said.sequences[:, longest:].numpy(), logits


@torch.no_grad()
def transformers_computes(model: Any, prompts: Tokens, said: np.ndarray) -> np.ndarray:
    """Return the logits [prompt, step, token] by which a model of transformers would choose at each place of given answers.

    The prompts are equally long.
    """
    begin = len(prompts[0])
    rows = torch.tensor([[*prompt, *answer] for prompt, answer in zip(prompts, said.tolist(), strict=True)])
    logits: np.ndarray = model.eval()(input_ids=rows, use_cache=False).logits[:, begin - 1 : -1].float().numpy()
    return logits


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of places where two say the same."""
    return float((one == other).mean())


def random_adapter(model: Any, folder: Path, *, strength: float, seed: int = 0, **options: Any) -> Any:
    """Put random LoRA matrices on all linear layers of a model, and save them as PEFT does."""
    torch.manual_seed(seed)
    how: dict[str, Any] = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False} | options
    adapted = get_peft_model(model, LoraConfig(**how))
    for name, weight in adapted.named_parameters():
        if ".lora_A." in name:
            torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
        elif ".lora_B." in name:
            torch.nn.init.normal_(weight, std=strength * weight.shape[1] ** -0.5)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted


WORDS = range(300, 324)


def sure_adapter(model: Any, folder: Path) -> Any:
    """Train a LoRA on all linear layers until a model is sure of what it says, and save it as PEFT does.

    What models with random weights say is a close thing at every token: a rounding decides. This adapter, random in the beginning, teaches
    them a successor for each of `WORDS`, in dialogues that begin with twelve of them. Then no choice is close.
    """
    draw = random.Random(0)
    circle = draw.sample(WORDS, len(WORDS))
    successor = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    rows = [draw.choices(WORDS, k=12) for _ in range(12)]
    for row in rows:
        for _ in range(32):
            row.append(successor[row[-1]])
    adapted = random_adapter(model, folder, strength=0.3)
    teach(adapted, [(row, [successor[word] for word in row]) for row in rows], rate=0.03, steps=40)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return adapted


def teach(model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]], *, rate: float, steps: int, size: int = 12) -> None:
    """Train what can be trained of a model, `size` rows a step.

    Args:
        model: the model.
        rows: tokens, and what is to be said behind each of them; -100 for nothing.
        rate: of learning, at its highest.
        steps: how many.
        size: rows a step.
    """
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row, _ in rows])
    targets = torch.tensor([[*target, *[-100] * (longest - len(target))] for _, target in rows])
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], betas=(0.9, 0.98), weight_decay=0)
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 10) * (1 - step / steps)
        part = torch.arange(step * size, (step + 1) * size) % len(rows)
        logits = model(input_ids=tokens[part], use_cache=False).logits
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[part].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()


def split(path: Path, folder: Path) -> Path:
    """Write a GGUF again in several parts; return the first."""
    reader = gguf.GGUFReader(path)
    writer = gguf.GGUFWriter(folder / "split.gguf", "llama", split_max_tensors=8)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            writer.add_key_value(key, field.contents(), field.types[0], sub_type=field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return next(iter(sorted(folder.glob("split-00001-of-*.gguf"))))
