"""The model in torch: the Llama architecture as llama.cpp computes it, over packs of turns that share their prefixes."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from matrix_py.embedded.export import Shape
from matrix_py.embedded.packs import Pack

# Of the first weights: the size of an embedding's channels; how sharply two kinds of heads look; how loudly what they find is said (so that
# it is of use, and unlearning it does not come first); which rotations count as slow and fast (radians a token).
_EMBEDDING, _SHARPNESS, _MATCH, _COPY, _SLOW, _FAST = 0.08, 4.0, 1.8, 0.8, 0.004, 0.15


class Network(nn.Module):
    """Llama (Touvron et al. 2023): RMS norm before each half of a block, rotary positions, SwiGLU; embedding and output share a matrix."""

    def __init__(self, shape: Shape) -> None:
        """Make a network with random weights."""
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.n_layer))
        self.output_norm = nn.RMSNorm(shape.n_embd, eps=shape.norm_eps)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                # Residual branches add up, so each writes the less the more there are (Radford et al. 2019).
                deep = name.endswith(("attn_output.weight", "ffn_down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * shape.n_layer) if deep else 0.02)
        angles = torch.arange(shape.n_ctx)[:, None] * _frequencies(shape)
        self._begin_with_induction()
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=False)

    def forward(self, tokens: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Return hidden states of which `logits` makes logits.

        Args:
            tokens: ids, (batch, length).
            positions: of each token in its own sequence, (batch, length).
            visible: whether a token (row) sees another (column), (batch, length, length).

        Returns:
            (batch, length, n_embd).
        """
        hidden = self.token_embd(tokens)
        turns = self.turns[positions][:, None]
        bias = visible[:, None]
        for block in self.blocks:
            hidden = block(hidden, turns, bias)
        normed: Tensor = self.output_norm(hidden)
        return normed

    @torch.no_grad()
    def _begin_with_induction(self) -> None:
        """Let the first two blocks repeat what came after the same two tokens before: an induction circuit (Olsson et al. 2022).

        Most of what a scene says is copied from its prompt. From random weights, a network of this size takes longer than an hour on two
        cores to find out how; from here, it goes on learning from weights that can do it, and is free to change them.
        """
        shape = self.shape
        width, head = shape.n_embd, shape.n_embd // shape.n_head
        random = torch.Generator().manual_seed(1)
        frequencies = _frequencies(shape)
        # Slow pairs of channels compare content at any distance, fast ones tell neighbours apart.
        slow = [channel for pair in range(head // 2) if frequencies[pair] < _SLOW for channel in (2 * pair, 2 * pair + 1)]
        fast = [pair for pair in range(head // 2) if frequencies[pair] > _FAST]
        # In a narrow network, fewer: most channels are to say what a token is.
        slow = slow[-(width // 10 * 2) :]
        half = len(slow) // 2
        # Channel 0 is the same for all tokens. Of the others, some hold what the two tokens before are, the rest what the token is.
        basis = torch.zeros(width, width - 1)
        basis[1:] = torch.linalg.qr(torch.randn(width - 1, width - 1, generator=random))[0]
        before, earlier, token = basis[:, : len(slow)], basis[:, len(slow) : 2 * len(slow)], basis[:, 2 * len(slow) :]
        identity = token[:, : len(slow)]
        self.token_embd.weight.copy_(torch.randn(shape.n_vocab, token.shape[1], generator=random) @ token.T * _EMBEDDING)
        self.token_embd.weight[:, 0] = 2 * _EMBEDDING
        first, second = self.blocks[0], self.blocks[1]
        # Block 0: one head looks at the token before, whatever it is, another at that before, and they write down what identifies them.
        for number, written in enumerate((before, earlier)):
            start = number * head
            for weight in (first.attn_q.weight, first.attn_k.weight, first.attn_v.weight):
                weight[start : start + head] = 0.0
            for pair in fast:
                angle = float(frequencies[pair]) * (number + 1)
                first.attn_q.weight[start + 2 * pair, 0] = _SHARPNESS
                first.attn_k.weight[start + 2 * pair, 0] = _SHARPNESS * math.cos(angle)
                first.attn_k.weight[start + 2 * pair + 1, 0] = _SHARPNESS * math.sin(angle)
            first.attn_v.weight[start : start + len(slow)] = identity.T
            first.attn_output.weight[:, start : start + head] = 0.0
            first.attn_output.weight[:, start : start + len(slow)] = written * _EMBEDDING
        # Block 1, all heads but one: look at tokens that come after two like this one and the one before, and write down what they are.
        for number in range(shape.n_head - 1):
            rows = slice(number * head, (number + 1) * head)
            turned = torch.linalg.qr(torch.randn(len(slow), len(slow), generator=random))[0]
            part = token[:, rows]
            for weight in (second.attn_q.weight, second.attn_k.weight, second.attn_v.weight):
                weight[rows] = 0.0
            second.attn_output.weight[:, rows] = 0.0
            channels = [rows.start + channel for channel in slow]
            asked = torch.cat([identity @ turned[:, :half], before @ turned[:, half:]], dim=1)
            found = torch.cat([before @ turned[:, :half], earlier @ turned[:, half:]], dim=1)
            second.attn_q.weight[channels] = _MATCH * asked.T
            second.attn_k.weight[channels] = _MATCH * found.T
            second.attn_v.weight[rows.start : rows.start + part.shape[1]] = part.T
            second.attn_output.weight[:, rows.start : rows.start + part.shape[1]] = part * (_COPY * _EMBEDDING)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits over the vocabulary, (..., n_vocab)."""
        return functional.linear(hidden, self.token_embd.weight)

    def tensors(self) -> dict[str, Any]:
        """Return the weights by their names in GGUF, as float32 arrays."""
        names = {"token_embd.weight": "token_embd.weight", "output_norm.weight": "output_norm.weight"}
        found = {}
        for name, weight in self.state_dict().items():
            found[names.get(name, name.replace("blocks.", "blk."))] = weight.detach().float().numpy()
        return found


def batch(packs: Sequence[Pack]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return tokens, positions, what sees what, parents and weights of packs, padded to one length."""
    length = max(map(len, packs))
    tokens, positions, parents = (torch.zeros(len(packs), length, dtype=torch.long) for _ in range(3))
    weights = torch.zeros(len(packs), length)
    visible = torch.eye(length, dtype=torch.bool).repeat(len(packs), 1, 1)
    for number, row in enumerate(packs):
        size = len(row)
        tokens[number, :size] = torch.tensor(row.tokens)
        positions[number, :size] = torch.tensor(row.depths)
        weights[number, :size] = torch.tensor(row.weights)
        parents[number, :size] = torch.tensor(row.parents).clamp(min=0)
        weights[number, 0] = 0.0
        for place, parent in enumerate(row.parents):
            if parent >= 0:
                visible[number, place] |= visible[number, parent]
    return tokens, positions, visible, parents, weights


def _frequencies(shape: Shape) -> Tensor:
    """Return by how much each pair of a head's channels turns from one token to the next, in radians."""
    head = shape.n_embd // shape.n_head
    frequencies: Tensor = shape.rope_base ** -(torch.arange(0, head, 2) / head)
    return frequencies


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, inner = shape.n_embd, shape.n_ff
        self.n_head = shape.n_head
        self.attn_norm = nn.RMSNorm(width, eps=shape.norm_eps)
        self.attn_q, self.attn_k, self.attn_v, self.attn_output = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.ffn_norm = nn.RMSNorm(width, eps=shape.norm_eps)
        self.ffn_gate, self.ffn_up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.ffn_down = nn.Linear(inner, width, bias=False)

    def forward(self, hidden: Tensor, turns: Tensor, visible: Tensor) -> Tensor:
        normed = self.attn_norm(hidden)
        query, key, value = (self._heads(part(normed)) for part in (self.attn_q, self.attn_k, self.attn_v))
        mixed = functional.scaled_dot_product_attention(_rotate(query, turns), _rotate(key, turns), value, attn_mask=visible)
        hidden = hidden + self.attn_output(mixed.transpose(1, 2).flatten(2))
        normed = self.ffn_norm(hidden)
        result: Tensor = hidden + self.ffn_down(functional.silu(self.ffn_gate(normed)) * self.ffn_up(normed))
        return result

    def _heads(self, part: Tensor) -> Tensor:
        return part.unflatten(2, (self.n_head, -1)).transpose(1, 2)


def _rotate(heads: Tensor, turns: Tensor) -> Tensor:
    """Rotate neighbouring pairs of channels, as llama.cpp does for this architecture."""
    pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turns).flatten(-2).type_as(heads)
