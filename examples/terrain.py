"""Interpolate a real terrain from scattered heights, with uncertainty, as a Gaussian Markov random field.

Field       x on a grid, x ~ N(0, Q⁻¹) with Q = τ² P P, P = κ² I + K, K the grid's Laplacian: the Matérn field of smoothness 1,
            with sparse Q (Lindgren, Rue, Lindström, 2011). y = x at some points + noise of variance 1/γ.
Posterior   x given y is N(x̂, H⁻¹), H = Q + γ S, x̂ = γ H⁻¹ y, with S = 1 at the measured points.
Learning    log p(y) = ½ log det Q − ½ log det H + ½ m log γ − ½ γ y·(y − x̂) + const, exactly, with its exact gradient. L-BFGS maximizes.
Uncertainty The variances are the diagonal of H⁻¹, of which only the entries on H's pattern are computed.

The heights are matplotlib's sample of the Jacksboro fault, Tennessee.

    python examples/terrain.py
"""

import argparse
from collections.abc import Sequence

import matplotlib.cbook
import numpy as np
import scipy.interpolate
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm import tqdm

import sparsolve as sps

SPD = sps.Cholesky()


class Field:
    """Q and H on a grid, as functions of the logarithms of τ, κ and γ."""

    def __init__(self, rows: int, columns: int, measured: Tensor) -> None:
        ends = [sp.diags([-np.ones(n - 1), np.ones(n - 1)], [0, 1], shape=(n - 1, n)) for n in (rows, columns)]
        K = sp.kronsum(ends[1].T @ ends[1], ends[0].T @ ends[0]).tocsr()
        self.K, self.K2 = sps.SparseMatrix.from_scipy(K), sps.SparseMatrix.from_scipy(K @ K)
        self.I = sps.SparseMatrix.from_diagonal(torch.ones(rows * columns, dtype=torch.float64))
        self.S = sps.SparseMatrix.from_diagonal(measured.double())

    def prior(self, theta: Tensor) -> sps.SparseMatrix:
        tau, kappa2 = theta[0].exp(), (2 * theta[1]).exp()
        return tau**2 * (self.K2 + 2 * kappa2 * self.K + kappa2**2 * self.I)

    def posterior(self, theta: Tensor) -> sps.SparseMatrix:
        return self.prior(theta) + theta[2].exp() * self.S

    def mean(self, theta: Tensor, y: Tensor) -> Tensor:
        """x̂ for y `(n,)`, zero where nothing is measured."""
        return sps.solve(self.posterior(theta), theta[2].exp() * y, SPD)

    def loss(self, theta: Tensor, y: Tensor) -> Tensor:
        """−2 log p(y) / m, up to a constant."""
        Q, H = (sps.slogdet(A, SPD).logabsdet for A in (self.prior(theta), self.posterior(theta)))
        fit = theta[2].exp() * (y @ (y - self.mean(theta, y)))
        m = self.S.values.sum()
        return (fit - Q + H) / m - theta[2]

    def deviation(self, theta: Tensor) -> Tensor:
        """`(n,)`: the posterior's standard deviations."""
        return sps.inverse_entries(self.posterior(theta), SPD).diagonal().sqrt()


def heights(step: int) -> Tensor:
    with matplotlib.cbook.get_sample_data("jacksboro_fault_dem.npz") as data:
        return torch.from_numpy(data["elevation"][::step, ::step].astype(np.float64))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Interpolate a terrain from scattered heights.")
    parser.add_argument("--step", type=int, default=4, help="of the grid, in data points (%(default)s)")
    parser.add_argument("--share", type=float, default=0.1, help="of the heights that are measured (%(default)s)")
    parser.add_argument("--iterations", type=int, default=30, help="of L-BFGS, at most (%(default)s)")
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(0)

    truth = heights(args.step)
    measured = torch.rand(truth.numel(), generator=generator) < args.share
    center, scale = truth.flatten()[measured].mean(), truth.flatten()[measured].std()
    x = (truth.flatten() - center) / scale
    y = torch.where(measured, x, 0)
    field = Field(*truth.shape, measured)

    theta = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=args.iterations, line_search_fn="strong_wolfe")
    with tqdm(desc="likelihood") as bar:

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = field.loss(theta, y)
            loss.backward()
            bar.set_postfix(loss=f"{loss.item():.4f}")
            bar.update()
            return loss

        optimizer.step(closure)

    theta = theta.detach()
    mean = field.mean(theta, y)
    deviation = field.deviation(theta)
    at = torch.cartesian_prod(*(torch.arange(size) for size in truth.shape)).numpy()
    linear, nearest = (scipy.interpolate.griddata(at[measured], x[measured], at, how) for how in ("linear", "nearest"))
    linear = torch.from_numpy(np.where(np.isnan(linear), nearest, linear))
    unseen = ~measured
    error, other = ((scale * (m - x)[unseen]).square().mean().sqrt().item() for m in (mean, linear))
    inside = ((mean - x).abs() <= 1.645 * deviation)[unseen].double().mean().item()
    print(
        f"{int(measured.sum())} of {x.numel()} heights, τ {theta[0].exp():.2f}, κ {theta[1].exp():.3f}, noise {scale * (-theta[2] / 2).exp():.1f} m\n"
        f"error {error:.1f} m (linear interpolation {other:.1f} m), {inside:.0%} of the unseen heights in their 90% interval"
    )
    return 0 if error < other else 1


if __name__ == "__main__":
    raise SystemExit(main())
