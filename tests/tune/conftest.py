"""What the tests of tuning share: one thread, and prompts."""

import random
from collections.abc import Iterator

import pytest
import torch
from parity import WORDS


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Keep torch from using more threads than small models fill."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """Fifty prompts of twelve words."""
    draw = random.Random(0)
    return [draw.choices(WORDS, k=12) for _ in range(50)]
