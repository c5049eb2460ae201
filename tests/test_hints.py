"""Errors for names of other libraries say what does the same here; and that is there."""

from __future__ import annotations

import copy
import pickle
import re
from typing import Any

import pytest
import torch

import sparsolve as sps
from sparsolve import hints

A = sps.SparseMatrix.from_diagonal(torch.ones(2))
OWNERS = {"sparsolve": (sps, hints.MODULE), "SparseMatrix": (A, hints.MATRIX), "Pattern": (A.pattern, hints.PATTERN)}
THERE = {"A": A, "pattern": A.pattern, "sparsolve": sps, "SparseMatrix": sps.SparseMatrix, "torch": torch}


@pytest.mark.parametrize(("owner", "name"), [(o, n) for o, (_, table) in OWNERS.items() for n in table])
def test_every_hint(owner: str, name: str) -> None:
    thing, table = OWNERS[owner]
    with pytest.raises(AttributeError, match=rf"^{owner} has no attribute '{name}'\. .*{re.escape(table[name])}$"):
        getattr(thing, name)
    for of, attribute in re.findall(r"\b(A|pattern|sparsolve|SparseMatrix|torch)\.(\w+)", table[name]):
        assert hasattr(THERE[of], attribute)
    for function in re.findall(r"(?<![.\w])([A-Za-z]\w+)\(", table[name]):
        assert hasattr(sps, function) or function == "f"


@pytest.mark.parametrize("owner", OWNERS)
def test_other_names_are_missing_as_ever(owner: str) -> None:
    thing: Any = OWNERS[owner][0]
    with pytest.raises(AttributeError, match=rf"^{owner} has no attribute 'anything'\.$"):
        _ = thing.anything
    assert getattr(thing, "anything", 1) == 1
    assert not hasattr(thing, "__anything__")


def test_copies_and_pickles() -> None:
    for made in (copy.copy(A), copy.deepcopy(A), pickle.loads(pickle.dumps(A))):
        assert torch.equal(made.to_dense(), A.to_dense())


def test_a_matrix_without_a_pattern() -> None:
    with pytest.raises(
        TypeError,
        match=r"SparseMatrix got a torch.strided tensor without a pattern.*from_scipy, from_torch and from_dense",
    ):
        sps.SparseMatrix(torch.eye(2))  # type: ignore[call-arg]
