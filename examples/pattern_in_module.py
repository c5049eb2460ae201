"""A sparse solve as a layer: the pattern in buffers, the values a parameter.

The layer learns the entries of a tridiagonal matrix A from pairs of b and x with A x = b. Buffers and
parameters move with `.to(...)` and are saved with `state_dict()`; a `Pattern` is made of them in every forward pass.

    python examples/pattern_in_module.py
"""

import torch
from torch import Tensor, nn

import sparsolve as sps


class SparseSolve(nn.Module):
    """b ↦ A⁻¹ b, for a matrix with learnable values."""

    crow: Tensor
    col: Tensor

    def __init__(self, A: sps.SparseMatrix) -> None:
        super().__init__()
        self.shape = A.shape
        self.register_buffer("crow", A.pattern.crow.clone())  # load_state_dict writes into them
        self.register_buffer("col", A.pattern.col.clone())
        self.values = nn.Parameter(A.values.clone())

    def forward(self, b: Tensor) -> Tensor:
        pattern = sps.Pattern(self.crow, self.col, self.shape)
        return sps.solve(sps.SparseMatrix(self.values, pattern), b)


def tridiagonal(size: int, diagonal: float, beside: float) -> sps.SparseMatrix:
    """A matrix to begin with."""
    ones = torch.ones(size, dtype=torch.float64)
    dense = torch.diag(diagonal * ones) + sum(torch.diag(beside * ones[1:], offset) for offset in (-1, 1))
    return sps.SparseMatrix.from_torch(dense.to_sparse())


def main(steps: int = 200, backend: str = "inductor") -> tuple[SparseSolve, list[float]]:
    """Learn the matrix from examples; the trained layer and the losses."""
    b = torch.randn(20, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = sps.solve(tridiagonal(20, 2.5, -1.0), b)

    layer = SparseSolve(tridiagonal(20, 4.0, -0.5))
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = (compiled(b) - x).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"step {step:3d}  loss {loss.item():.2e}")
    return layer, losses


if __name__ == "__main__":
    main()
