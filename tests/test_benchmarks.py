"""The benchmarks run, their figures have the form that the report reads, and the page shows them."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

import sparsolve as sps

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SYSTEMS = {"Poisson 2-D, small", "KKT"}
CASES = {"classes": 2, "peers": 4, "batch": 4, "vmap": 10, "memory": 6}


def command(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sps.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    line = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Figures of a quick run, with a folder of one good, one singular and one rectangular matrix."""
    folder = tmp_path_factory.mktemp("benchmarks")
    scipy.io.mmwrite(folder / "good.mtx", sp.diags([2.0, 3.0, 5.0]).tocsr() + sp.eye(3, k=2))
    scipy.io.mmwrite(folder / "singular.mtx", sp.csr_matrix(np.ones((3, 3))))
    scipy.io.mmwrite(folder / "wide.mtx", sp.csr_matrix(np.ones((2, 3))))
    done = command("run.py", "--quick", "--matrices", folder, "--json", folder / "quick.json")
    assert done.returncode == 0, done.stderr
    return folder / "quick.json"


def rows(file: Path, part: str) -> list[dict[str, Any]]:
    return [row for row in json.loads(file.read_text())["rows"] if row["part"] == part]


def test_every_part_has_its_rows(results: Path) -> None:
    document = json.loads(results.read_text())
    assert document["quick"]
    assert not document["extras"]
    assert {"python", "torch", "scipy", "cores"} <= document["machine"].keys()
    found = Counter(row["part"] for row in document["rows"])
    assert {part: found[part] for part in CASES} == CASES
    assert {row["system"] for row in document["rows"] if row["part"] != "answers"} == SYSTEMS
    assert not [row for row in document["rows"] if "failed" in row]


def test_figures_are_numbers_and_answers_are_right(results: Path) -> None:
    for row in rows(results, "classes"):
        assert (row["factorizations"], row["analyses"]) == (1, 1)
        assert row["backward_error"] < 1e-14
        assert all(t > 0 for t in row["ms"].values())
        assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("value", "gradient", "first"))
    dense = [row for row in rows(results, "peers") if row["peer"].endswith("dense")]
    assert dense
    assert all(row["gradient_difference"] < 1e-10 for row in dense)
    assert {row["k"] for row in rows(results, "vmap")} == {1, 4, 16, 64, 256}


def test_real_matrices_have_an_answer_or_an_error(results: Path) -> None:
    found = {row["system"]: row for row in rows(results, "answers")}
    assert set(found) == SYSTEMS | {"good", "singular"}
    assert found["good"]["backward_error"] < 1e-15
    assert found["singular"]["error"] == "SingularMatrixError"
    assert found["singular"]["says"].endswith(".")


def test_a_part_that_is_measured_again_replaces_its_rows_only(results: Path, tmp_path: Path) -> None:
    file = tmp_path / "again.json"
    before = json.loads(results.read_text())
    before["rows"][0]["system"] = "old"
    file.write_text(json.dumps(before))
    done = command("run.py", "--quick", "--only", "classes", "--json", file)
    assert done.returncode == 0, done.stderr
    assert {row["system"] for row in rows(file, "classes")} == SYSTEMS
    assert rows(file, "vmap") == rows(results, "vmap")
    done = command("run.py", "--quick", "--only", "vmap", "--systems", "KK", "--json", file)
    assert done.returncode == 0, done.stderr
    assert [row["system"] for row in rows(file, "vmap")] == 5 * ["Poisson 2-D, small"] + 5 * ["KKT"]
    assert rows(file, "vmap")[:5] == rows(results, "vmap")[:5]


def test_a_case_that_fails_is_a_row_that_says_so(tmp_path: Path) -> None:
    done = command("run.py", "--only", "vmap", "--limit", "0.01", "--json", tmp_path / "late.json")
    assert done.returncode == 0, done.stderr
    assert {row["failed"] for row in rows(tmp_path / "late.json", "vmap")} == {"It took longer than 0.01 s."}


def test_determinants(tmp_path: Path) -> None:
    """It compares the gradient with that of dense code itself."""
    done = command("determinant.py", "--only", "Poisson 3-D, small", "--rounds", 1, "--json", tmp_path / "d.json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "d.json").read_text())["rows"]
    assert all(t > 0 for t in row["ms"].values())
    assert row["ms"].keys() == {"factorization", "second", "value", "gradient", "solves", "dense"}


def test_features_are_those_of_the_readme() -> None:
    """Of this package; the others are asked where they are installed."""
    done = command("features.py")
    assert done.returncode == 0, done.stderr
    name, *found = done.stdout[: done.stdout.index("\ntorch")].splitlines()
    assert name.startswith("sparsolve ")
    assert [line.split(": ")[1] for line in found] == 6 * ["right"] + ["SingularMatrixError"]


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="the plots are drawn by matplotlib")
def test_the_report_shows_the_figures(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "docs" / "page.md"
    done = command("report.py", results, "--page", page)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    for heading in ("Matrix classes", "Other packages", "Batches of values", "Memory", "Answers"):
        assert f"## {heading}" in text
    assert "`SingularMatrixError`" in text
    assert all(f"| {system} |" in text for system in SYSTEMS)
    for name in ("time-against-n.svg", "vmap-width.svg"):
        assert f"figures/{name}" in text
        assert "<svg" in (page.parent / "figures" / name).read_text(encoding="utf-8")
    nothing = tmp_path / "other.json"
    nothing.write_text("{}")
    assert command("report.py", nothing, "--page", page).returncode == 2


@pytest.mark.parametrize("name", ["laplacian", "convection_diffusion", "banded", "helmholtz", "gaps"])
def test_raw_calls_solve_what_they_are_compared_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A multiple of A, and its adjoint: a faster way to something else would be no measure."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    gallery, peers = map(importlib.import_module, ("gallery", "peers"))
    two = sp.block_diag([gallery.laplacian(5) + sp.eye(5), gallery.laplacian(6) + sp.eye(6)])
    A = sp.csr_matrix(two if name == "gaps" else getattr(gallery, name)(9))
    A.sort_indices()
    problem, done = peers.Problem.of(A), []
    for way, peer in (peers.RAW | peers.EXTRAS).items():  # of these, whatever is installed
        try:
            x, adjoint = peer(problem, True)(2.0)
        except peers.Unsuitable:
            continue
        np.testing.assert_allclose(2 * A @ x, problem.b, atol=1e-9)
        np.testing.assert_allclose(2 * A.conj().T @ adjoint, problem.g, atol=1e-9)
        done.append(way)
    assert ("LAPACK band, Cholesky" in done) == (name in ("laplacian", "gaps"))
    assert len(set(done) & set(peers.RAW)) >= 3
