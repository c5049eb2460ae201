"""Recover a conductivity field from noisy measurements, on a real finite-element mesh.

Equation        -div(exp(m) grad u) = f around an airfoil, u = 0 on the airfoil and on the outer boundary. The field
                m, the logarithm of a conductivity, is unknown; u is measured at a few sensors for several sources f.
Discretization  Linear triangles. Triangle T adds exp(m_T) K_T, with m_T the mean of m at its corners, to the sparse
                matrix A(m) of the interior vertices; the sources are the columns of F, and U = A(m)⁻¹ F.
Prior           m = L z, where z is white noise and L = P⁻¹ M^½ with P = κ² M + K (M the lumped mass, K the stiffness)
                makes it smooth, with a given standard deviation and correlation length (Lindgren et al., 2011).
Loss            J(z) = ½ |U(L z) at the sensors - data|² / σ² + ½ |z|², which L-BFGS minimizes.
Gradient        `sps.solve` factorizes A(m). The same factor then gives, with one adjoint solve Λ = A(m)⁻ᵀ Ū, the
                gradient -Λ Uᵀ of all matrix entries; autograd does the rest. P is factorized once and for all.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyamg.gallery
import torch
from matplotlib.figure import Figure
from pyamg.gallery.fem import Mesh
from torch import Tensor
from tqdm import tqdm

import sparsolve as sps


class Airfoil:
    """The airfoil mesh of pyamg's gallery, uniformly refined, and its linear finite elements."""

    def __init__(self, refinements: int) -> None:
        example = pyamg.gallery.load_example("airfoil")
        mesh = Mesh(example["vertices"], example["elements"].astype(np.int64))
        mesh.refine(refinements)  # new vertices come last: the old ones keep their numbers
        self.points, self.triangles = torch.from_numpy(mesh.V), torch.from_numpy(mesh.E)

        # The boundary, outer polygon and airfoil, is made of the edges with a triangle on one side only.
        edges = self.triangles[:, [[0, 1], [1, 2], [2, 0]]].flatten(0, 1).sort(dim=1).values
        edges, sides = edges.unique(dim=0, return_counts=True)
        self.boundary = edges[sides == 1]
        self.interior = torch.ones(len(self.points), dtype=torch.bool)
        self.interior[self.boundary] = False

        # Each triangle's stiffness matrix, from the edges opposite to its corners, and its lumped mass matrix.
        corners = self.points[self.triangles]
        opposite = corners.roll(1, dims=1) - corners.roll(-1, dims=1)
        area = torch.linalg.det(opposite[:, :2])[:, None, None].abs() / 2
        self.stiffness = opposite @ opposite.mT / (4 * area)
        self.mass = area / 3 * torch.eye(3, dtype=area.dtype)
        # The area that each vertex stands for.
        share = self.mass.diagonal(dim1=1, dim2=2)
        self.weight = share.new_zeros(len(self.points)).index_add(0, self.triangles.flatten(), share.flatten())

    def assembler(self, vertices: Tensor) -> Callable[[Tensor], sps.SparseMatrix]:
        """A function that assembles `(triangles, 3, 3)` element matrices on some vertices, given as a mask."""
        row = self.triangles[:, :, None].expand(-1, 3, 3).flatten()
        col = self.triangles[:, None, :].expand(-1, 3, 3).flatten()
        kept = (vertices[row] & vertices[col]).nonzero().squeeze(1)
        number, n = vertices.cumsum(0) - 1, int(vertices.sum())
        # A pattern may hold the same place several times, as neighbouring triangles do: no need to add anything up.
        pattern, order = sps.Pattern.from_coo(number[row[kept]], number[col[kept]], (n, n))
        gather = kept[order]
        return lambda elements: sps.SparseMatrix(elements.flatten()[gather], pattern)


def experiment(mesh: Airfoil, sources: Tensor, sensors: Tensor) -> Callable[[Tensor], Tensor]:
    """The function m ↦ U at the sensors, `(sensors, sources)`, for Gaussian sources around some points."""
    assemble = mesh.assembler(mesh.interior)
    distance = torch.cdist(mesh.points[mesh.interior], sources)
    F = mesh.weight[mesh.interior, None] * torch.exp(-((distance / 0.6) ** 2) / 2)
    sensor_rows = (mesh.interior.cumsum(0) - 1)[sensors]

    def measure(m: Tensor) -> Tensor:
        conductivity = m[mesh.triangles].mean(dim=1).exp()
        A = assemble(conductivity[:, None, None] * mesh.stiffness)
        return sps.solve(A, F)[sensor_rows]

    return measure


def smooth_fields(mesh: Airfoil, deviation: float = 0.5, length: float = 4.0) -> Callable[[Tensor], Tensor]:
    """The function z ↦ L z from white noise to fields of this standard deviation and correlation length."""
    kappa = 8**0.5 / length
    P = mesh.assembler(torch.ones_like(mesh.interior))(kappa**2 * mesh.mass + mesh.stiffness)
    scale = deviation * (4 * torch.pi) ** 0.5 * kappa * mesh.weight.sqrt()
    return lambda z: sps.solve(P, scale * z)


def true_field(points: Tensor) -> Tensor:
    """What is to be found: a conductive arc above the airfoil, two resistive bumps below."""
    radius, angle = points.norm(dim=1), torch.atan2(points[:, 1], points[:, 0])
    arc = torch.exp(-(((radius - 2.6) / 0.5) ** 2) / 2 - ((angle - 1.6) / 1.1) ** 4)
    bumps = torch.exp(-((torch.cdist(points, points.new_tensor([[-1.8, -2.0], [1.9, -1.7]])) / 0.7) ** 2) / 2)
    return 1.6 * arc - bumps @ points.new_tensor([1.6, 1.1])


def minimize(loss: Callable[[Tensor], Tensor], z: Tensor, iterations: int) -> Tensor:
    """L-BFGS, one step at a time. A step begins with the loss where the last one ended: its factor is in the memo."""
    z = z.clone().requires_grad_()
    # max_eval: by default a step of one iteration has one evaluation, and its line search may get stuck.
    optimizer = torch.optim.LBFGS([z], max_iter=1, max_eval=20, history_size=iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(z)
        value.backward()
        return value

    with tqdm(range(iterations), desc="L-BFGS") as bar:
        for _ in bar:
            bar.set_postfix(loss=f"{optimizer.step(closure).item():.1f}")
    return z.detach()


def draw(path: Path, mesh: Airfoil, fields: list[Tensor], titles: list[str], sources: Tensor, sensors: Tensor) -> None:
    """Truth, estimate and error side by side; the first two have the same colors."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    limits = [fields[i].abs().max().item() for i in (0, 0, 2)]
    colors = ["viridis", "viridis", "RdBu_r"]
    for ax, field, title, limit, cmap in zip(axes, fields, titles, limits, colors, strict=True):
        style = {"shading": "gouraud", "cmap": cmap, "vmin": -limit, "vmax": limit}
        image = ax.tripcolor(*mesh.points.T, mesh.triangles, field, **style)
        ax.plot(*mesh.points[mesh.boundary].permute(2, 1, 0), color="black", linewidth=0.8)
        ax.set(title=title, aspect="equal")
        ax.axis("off")
        if ax is not axes[0]:
            figure.colorbar(image, ax=ax, shrink=0.66, label="log conductivity")
    axes[0].plot(*mesh.points[sensors].T, "k.", markersize=3, label=f"{len(sensors)} sensors")
    axes[0].plot(*sources.T, "w*", markersize=10, markeredgecolor="black", label=f"{len(sources)} sources")
    axes[0].legend(loc="upper center", bbox_to_anchor=(0.5, 0.02), ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Recover a conductivity field from noisy measurements.")
    parser.add_argument("--iterations", type=int, default=80, help="of L-BFGS (%(default)s)")
    parser.add_argument("--noise", type=float, default=0.01, help="relative to the data (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("out/recovered_field.png"))
    parser.add_argument("--eager", action="store_true", help="do not compile the loss")
    args = parser.parse_args(argv)
    generator = torch.Generator().manual_seed(args.seed)

    # The data come from a finer mesh than the estimate, so that there are discretization errors in them as well.
    mesh, fine = Airfoil(refinements=2), Airfoil(refinements=3)
    angle = torch.arange(6, dtype=torch.float64) * torch.pi / 3
    sources = 3.5 * torch.stack([angle.cos(), angle.sin()], dim=1)
    sensors = torch.multinomial(mesh.weight * mesh.interior, 150, generator=generator)
    exact = experiment(fine, sources, sensors)(true_field(fine.points))
    sigma = args.noise * exact.square().mean().sqrt()
    data = exact + sigma * torch.randn(exact.shape, dtype=exact.dtype, generator=generator)

    measure, smooth = experiment(mesh, sources, sensors), smooth_fields(mesh)

    def loss(z: Tensor) -> Tensor:
        residual = (measure(smooth(z)) - data) / sigma
        return (residual.square().sum() + z.square().sum()) / 2

    z = torch.zeros_like(mesh.weight)
    if not args.eager:
        loss = torch.compile(loss, fullgraph=True)
        loss(z.clone().requires_grad_()).backward()  # compiles, before the clock starts
    factorizations, start = sps.memo_info().factorizations, time.perf_counter()
    estimate = smooth(minimize(loss, z, args.iterations))
    seconds = (time.perf_counter() - start) / args.iterations
    factorizations = sps.memo_info().factorizations - factorizations

    truth = true_field(mesh.points)
    before, after = (((measure(m) - data).norm() / data.norm()).item() for m in (z, estimate))
    error = (mesh.weight @ (estimate - truth) ** 2 / (mesh.weight @ truth**2)).sqrt().item()
    titles = ["truth", f"estimate, misfit {after:.2%} at {args.noise:.2%} noise", f"error, {error:.1%}"]
    draw(args.output, mesh, [truth, estimate, estimate - truth], titles, sources, sensors)
    print(
        f"misfit {before:.1%} -> {after:.2%} (noise {args.noise:.2%}), field error 100% -> {error:.1%}, "
        f"{factorizations} factorizations, {seconds:.3f} s per iteration, {args.output}"
    )
    return 0 if after <= 3 * args.noise else 1


if __name__ == "__main__":
    raise SystemExit(main())
