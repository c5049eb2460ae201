"""What every test starts from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

import sparsolve as sps

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """An empty memo of the usual size, and the same random numbers every time."""
    torch.manual_seed(0)
    sps.set_memo_limit(2**31)
    sps.clear_memo()
    yield
    sps.set_memo_limit(2**31)
