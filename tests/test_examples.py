"""The examples run, and do what they say."""

from __future__ import annotations

import functools
import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import sparsolve as sps

EXAMPLES = Path(__file__).parent.parent / "examples"


class TestRecoverField:
    @pytest.fixture
    def recover_field(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        for name in ("matplotlib", "pyamg", "tqdm"):
            pytest.importorskip(name)
        monkeypatch.syspath_prepend(EXAMPLES)
        monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
        return importlib.import_module("recover_field")

    @pytest.mark.parametrize("mode", ["--eager", "--seed=1"])  # the second compiles
    def test_finds_the_field(
        self, recover_field: ModuleType, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        picture = tmp_path / "new" / "field.png"
        assert recover_field.main([mode, "--iterations=30", f"--output={picture}"]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
        before, after, noise, first, error = map(float, re.findall(r"([\d.]+)%", capsys.readouterr().out))
        assert before > 10 * noise
        assert after < 2.5 * noise
        assert error < 0.4 * first

    def test_says_when_it_failed(self, recover_field: ModuleType, tmp_path: Path) -> None:
        assert recover_field.main(["--eager", "--iterations=1", f"--output={tmp_path / 'field.png'}"]) == 1

    def test_factorizes_once_for_each_field(self, recover_field: ModuleType) -> None:
        mesh = recover_field.Airfoil(refinements=0)
        measure = recover_field.experiment(mesh, mesh.points[:2], mesh.interior.nonzero().squeeze(1)[:5])
        m = recover_field.true_field(mesh.points).requires_grad_()
        measure(m).sum().backward()
        measure(m).square().sum().backward()
        assert sps.memo_info().factorizations == 1

    def test_elements(self, recover_field: ModuleType) -> None:
        """Constants and linear functions have no Laplacian, and the masses add up to the area."""
        mesh = recover_field.Airfoil(refinements=1)
        everywhere = torch.ones_like(mesh.interior)
        linear = mesh.assembler(everywhere)(mesh.stiffness) @ mesh.points
        torch.testing.assert_close(linear[mesh.interior], torch.zeros_like(linear[mesh.interior]))
        mass = mesh.assembler(everywhere)(mesh.mass) @ torch.ones_like(mesh.weight)
        torch.testing.assert_close(mass, mesh.weight)


class TestPatternInModule:
    @pytest.fixture
    def pattern_in_module(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        monkeypatch.syspath_prepend(EXAMPLES)
        return importlib.import_module("pattern_in_module")

    def test_learns(self, pattern_in_module: ModuleType) -> None:
        _, losses = pattern_in_module.main(steps=30, backend="aot_eager")
        assert losses[-1] < losses[0] / 10

    def test_state_dict_round_trip(self, pattern_in_module: ModuleType, tmp_path: Path) -> None:
        b = torch.randn(20, 3, dtype=torch.float64)
        layer, _ = pattern_in_module.main(steps=2, backend="aot_eager")
        assert set(layer.state_dict()) == {"crow", "col", "values"}
        torch.save(layer.state_dict(), tmp_path / "layer.pt")
        other = pattern_in_module.SparseSolve(pattern_in_module.tridiagonal(20, 1.0, 0.1))
        assert not torch.equal(other(b), layer(b))
        other.load_state_dict(torch.load(tmp_path / "layer.pt"))
        assert torch.equal(other(b), layer(b))

    def test_moves(self, pattern_in_module: ModuleType) -> None:
        """`.to` takes the values along, and leaves the indices whole numbers."""
        b = torch.randn(20)
        layer = pattern_in_module.SparseSolve(pattern_in_module.tridiagonal(20, 4.0, -1.0))
        expected = layer(b.double()).float()
        layer.to(torch.float32)
        assert layer.col.dtype is torch.int64
        torch.testing.assert_close(layer(b), expected)

    def test_compiles_to_the_same(self, pattern_in_module: ModuleType) -> None:
        layer = pattern_in_module.SparseSolve(pattern_in_module.tridiagonal(20, 4.0, -1.0))
        b = torch.randn(20, 3, dtype=torch.float64)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        gradients = [torch.autograd.grad(f(b).square().sum(), layer.values)[0] for f in (layer, compiled)]
        torch.testing.assert_close(compiled(b), layer(b))
        torch.testing.assert_close(*gradients)


class TestTerrain:
    @pytest.fixture
    def terrain(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        for name in ("matplotlib", "tqdm"):
            pytest.importorskip(name)
        monkeypatch.syspath_prepend(EXAMPLES)
        return importlib.import_module("terrain")

    def test_beats_linear_interpolation(self, terrain: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
        assert terrain.main(["--step=8", "--iterations=30"]) == 0
        inside = re.findall(r"([\d.]+)% of the unseen", capsys.readouterr().out)
        assert 70 < float(inside[0]) < 97

    def test_says_when_it_failed(self, terrain: ModuleType) -> None:
        assert terrain.main(["--step=16", "--iterations=0"]) == 1

    @pytest.fixture
    def small(self, terrain: ModuleType) -> tuple[Any, ...]:
        """A field of 143 heights, the measured ones, their numbers, and parameters."""
        heights = terrain.heights(32)
        measured = torch.rand(heights.numel(), generator=torch.Generator().manual_seed(0)) < 0.3
        y = torch.where(measured, (heights.flatten() - heights.mean()) / heights.std(), 0)
        return terrain.Field(*heights.shape, measured), measured, y, torch.tensor([0.3, -1.0, 2.0]).double()

    def test_likelihood(self, small: tuple[Any, ...]) -> None:
        field, measured, y, theta = small

        def likelihood(theta: torch.Tensor) -> torch.Tensor:
            """−2 log p(y), from the covariance of the measured heights."""
            C = torch.linalg.inv(field.prior(theta).to_dense())[measured][:, measured]
            C = C + torch.eye(len(C), dtype=C.dtype) / theta[2].exp()
            return torch.logdet(C) + y[measured] @ torch.linalg.inv(C) @ y[measured]

        m, other = measured.sum(), theta + 0.1
        got, expected = (f(other) - f(theta) for f in (lambda t: m * field.loss(t, y), likelihood))
        torch.testing.assert_close(got, expected)
        got, expected = (torch.func.grad(f)(theta) for f in (lambda t: m * field.loss(t, y), likelihood))
        torch.testing.assert_close(got, expected)

    def test_deviation(self, small: tuple[Any, ...]) -> None:
        field, _, _, theta = small
        covariance = torch.linalg.inv(field.posterior(theta).to_dense())
        torch.testing.assert_close(field.deviation(theta), covariance.diagonal().sqrt())
