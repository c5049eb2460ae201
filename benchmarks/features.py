"""What each package can differentiate, batch and compile, and what it says of a singular matrix: the README's table, printed.

    python benchmarks/features.py

Packages that are not installed are left out. The matrices are a 3 x 3 one, and the Laplacian of a random graph, which is singular
to working precision without an exactly zero pivot.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch.autograd import grad as derivative
from torch.func import grad, jvp, vmap

import sparsolve as sps

DENSE = torch.tensor([[4, 1, 0], [0, 3, 2], [1, 0, 5]], dtype=torch.float64)
ROW, COL = DENSE.nonzero().T
VALUES, RHS = DENSE[ROW, COL], torch.tensor([1.0, -1.0, 3.0], dtype=torch.float64)
PATTERN = sps.Pattern(torch.tensor([0, 2, 4, 6]), COL, (3, 3))
W = sp.random(40, 40, 0.2, random_state=1)
LAPLACIAN = sp.csgraph.laplacian(sp.csr_matrix(W + W.T)).tocsr()
LAPLACIAN.sort_indices()


def oracle(v: Any, b: Any) -> Any:
    return torch.linalg.inv(torch.zeros_like(DENSE).index_put((ROW, COL), v)) @ b


def ours(v: Any, b: Any, pattern: Any = PATTERN) -> Any:
    return sps.solve(sps.SparseMatrix(v, pattern), b)


def torch_sla(v: Any, b: Any, row: Any = ROW, col: Any = COL) -> Any:
    from torch_sla import spsolve

    return spsolve(v, row, col, (len(b), len(b)), b)


def tsgu(A: Any, b: Any) -> Any:
    from torchsparsegradutils.cupy import sparse_solve_c4t

    return sparse_solve_c4t(A, b)


def answer(question: Callable[[], Any]) -> str:
    """`right`, `wrong`, or the error."""
    torch.compiler.reset()
    try:
        found, expected = question()
        return "right" if torch.allclose(found, expected) else "wrong, without an error"
    except Exception as error:
        return type(error).__name__


def singular(solve: Callable[[], Any]) -> str:
    try:
        return f"numbers up to {float(abs(solve()).max()):.0e}"
    except Exception as error:
        return type(error).__name__


def loss(solve: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda A, b: (solve(A, b) ** 2).sum()


def of_torch(solve: Callable[[Any, Any], Any], A: Any, numbers: Callable[[Any], Any]) -> dict[str, str]:
    """`A` is what the package takes: values, or a sparse tensor; `numbers` are the values of a gradient."""
    mine, right = loss(solve), loss(oracle)

    def first(f: Any, A: Any, numbers: Any) -> Any:
        A, b = A.detach().requires_grad_(), RHS.clone().requires_grad_()
        return numbers(derivative(f(A, b), A, create_graph=True)[0]), b

    def both(how: Callable[..., Any]) -> tuple[Any, Any]:
        return how(mine, A, numbers), how(right, VALUES, lambda g: g)

    def second(*args: Any) -> Any:
        g, b = first(*args)
        return derivative(g.sum(), b)[0]

    compiled = torch.compile(mine, fullgraph=True, backend="aot_eager")
    return {
        "gradient": answer(lambda: both(lambda *args: first(*args)[0])),
        "second derivative": answer(lambda: both(second)),
        "forward mode": answer(lambda: both(lambda f, A, _: jvp(lambda b: f(A, b), (RHS,), (RHS,))[1])),
        "torch.func.grad": answer(lambda: both(lambda f, A, _: grad(lambda b: f(A, b))(RHS))),
        "vmap": answer(lambda: both(lambda f, A, _: vmap(lambda b: f(A, b))(torch.stack([RHS, 2 * RHS])))),
        "torch.compile": answer(lambda: (first(compiled, A, numbers)[0], first(right, VALUES, lambda g: g)[0])),
    }


def of_klujax() -> dict[str, str]:
    import jax
    import klujax

    jax.config.update("jax_enable_x64", True)
    row, col, values, rhs = (jax.numpy.asarray(t.numpy()) for t in (ROW.int(), COL.int(), VALUES, RHS))
    mine = loss(lambda v, b: klujax.solve(row, col, v, b))
    right = loss(lambda v, b: jax.numpy.linalg.inv(jax.numpy.zeros((3, 3)).at[row, col].set(v)) @ b)

    def both(how: Callable[[Any], Any]) -> Any:
        return tuple(torch.from_numpy(np.array(jax.jit(how(f))(values, rhs))) for f in (mine, right))

    L = LAPLACIAN.tocoo()
    places = (L.row.astype(np.int32), L.col.astype(np.int32))
    return {
        "gradient": answer(lambda: both(jax.grad)),
        "second derivative": answer(lambda: both(jax.hessian)),
        "forward mode": answer(lambda: both(jax.jacfwd)),
        "vmap": answer(lambda: both(lambda f: lambda v, b: jax.vmap(lambda b: f(v, b))(jax.numpy.stack([b, 2 * b])))),
        "singular": singular(lambda: klujax.solve(*places, L.data, np.arange(40.0))),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    L, b = LAPLACIAN.tocoo(), torch.arange(40.0, dtype=torch.float64)
    row, col, v = (torch.from_numpy(a) for a in (L.row.astype(np.int64), L.col.astype(np.int64), L.data))
    csr = torch.sparse_csr_tensor(
        *map(torch.from_numpy, (LAPLACIAN.indptr, LAPLACIAN.indices, LAPLACIAN.data)), L.shape
    )
    packages: dict[str, Callable[[], dict[str, str]]] = {
        "sparsolve": lambda: of_torch(ours, VALUES, lambda g: g) | {"singular": singular(lambda: sps.solve(csr, b))},
        "torchsparsegradutils": lambda: (
            of_torch(tsgu, DENSE.to_sparse_csr(), lambda g: g.values()) | {"singular": singular(lambda: tsgu(csr, b))}
        ),
        "torch-sla": lambda: (
            of_torch(torch_sla, VALUES, lambda g: g) | {"singular": singular(lambda: torch_sla(v, b, row, col))}
        ),
        "klujax": of_klujax,
        "torch": lambda: (  # dense
            of_torch(torch.linalg.solve, DENSE, lambda g: g[ROW, COL])
            | {"singular": singular(lambda: torch.linalg.solve(csr.to_dense(), b))}
        ),
    }
    for name, asked in packages.items():
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
        for feature, found in asked().items():
            print(f"  {feature}: {found}")


if __name__ == "__main__":
    main()
