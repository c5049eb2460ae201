"""What is singular, and what only looks so, on the stand-ins for the device: by SuperLU's factors and by cuDSS's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import standin_cudss as sd
import standin_cupyx as cpx
from test_failure import (  # noqa: F401  run here again
    test_badly_scaled_laplacians_are_still_singular,
    test_badly_scaled_matrices,
    test_float32_poisson_problems_are_not_called_singular,
    test_hilbert_matrices_are_singular_to_working_precision,
    test_hilbert_matrices_that_are_not,
    test_ill_conditioned_matrices,
    test_rows_and_columns_badly_scaled_at_once,
    test_shifted_graph_laplacians_are_fine,
    test_tiny_and_huge_matrices,
)
from test_solve import test_badly_scaled_solution_is_accurate_componentwise  # noqa: F401


@pytest.fixture(autouse=True, params=["SuperLU", "cuDSS", "cuDSS, small pivots replaced"])
def device(fresh, request) -> Iterator[None]:
    if request.param == "SuperLU":
        with cpx.installed():
            yield
        return
    with sd.installed() as library:
        library.epsilon = 1e-13 if "replaced" in request.param else 0.0
        yield
