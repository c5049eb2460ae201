"""What every test starts from."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch

import sparsolve as sps
from sparsolve.backends.cupy_runtime import problem

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` run where CUDA tensors can be solved, and elsewhere say why they do not."""
    if not any("gpu" in item.keywords for item in items):
        return
    reason = None if torch.cuda.is_available() else "torch finds no CUDA device"
    with warnings.catch_warnings():
        warnings.simplefilter(
            "default"
        )  # CuPy, imported here, warns of libraries that nothing needs; as an error that would skip all
        reason = reason or problem()
    for item in items:
        if reason is not None and item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """An empty memo of the usual size, and the same random numbers every time."""
    torch.manual_seed(0)
    sps.set_memo_limit(2**31)
    sps.clear_memo()
    yield
    sps.set_memo_limit(2**31)
