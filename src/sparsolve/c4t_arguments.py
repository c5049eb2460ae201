"""What `sparse_solve_c4t` accepts: its checks, each a sentence of fact, cause and remedy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .backends.host import array
from .backends.named import METHODS
from .compressed import dense_dimensions
from .errors import sentence
from .operands import DTYPES
from .pattern import check_entries, check_places

__all__ = ["DIRECT", "OWN_NAMES", "Selection", "checked_options", "require_known", "require_matrix", "require_rhs"]

Selection = str | Callable[..., Any] | None
DIRECT = (None, "spsolve")
OWN_NAMES = ("x0", "callback")  # what belongs to the call's own solve
_CONTROLS = ("tol", "rtol", "atol", "maxiter", "x0", "M", "callback")


def require_known(name: str, selection: Selection) -> None:
    """A name, None or a callable."""
    known = (*METHODS, "spsolve")
    if isinstance(selection, str) and selection not in known:
        raise ValueError(
            sentence(
                f"{name} is {selection!r}, which is not a method here.",
                "A misspelling, or a method of SciPy's that has no name here.",
                f"Use None, one of {', '.join(map(repr, known))}, or a callable (A, b, **kwargs) -> x.",
            )
        )
    if not (selection is None or isinstance(selection, str) or callable(selection)):
        raise TypeError(
            sentence(
                f"{name} is a {type(selection).__name__}.",
                "Solver records such as LU() belong to sparsolve.solve.",
                f"Use None, one of {', '.join(map(repr, known))}, or a callable (A, b, **kwargs) -> x.",
            )
        )


def require_matrix(A: Tensor) -> None:
    """One square COO or CSR tensor."""
    if not isinstance(A, Tensor) or A.layout not in (torch.sparse_coo, torch.sparse_csr):
        what = f"a {A.layout} tensor" if isinstance(A, Tensor) else f"a {type(A).__name__}"
        raise TypeError(
            sentence(
                f"A is {what}; a sparse COO or CSR tensor is needed.",
                "A dense tensor, a SparseMatrix or a SciPy matrix, perhaps.",
                "Use A.to_sparse_csr(), sparsolve.c2t_csr(A), or sparsolve.solve(A, B), which takes a SparseMatrix.",
            )
        )
    dense = dense_dimensions(A)
    if A.dim() != 2 or dense != 0 or A.shape[0] != A.shape[1]:
        raise ValueError(
            sentence(
                f"A has shape {tuple(A.shape)} with {dense} dense dimensions; one square matrix (n, n) is needed.",
                "A batch, or a rectangular system, perhaps.",
                "For a batch that shares a pattern use sparsolve.solve with a SparseMatrix.",
            )
        )
    _require_dtype("A", A)


def require_rhs(A: Tensor, B: Tensor, solve: Selection, transpose_solve: Selection) -> None:
    """A vector or columns that fit A, and one column only for an iterative method."""
    if not isinstance(B, Tensor) or B.layout is not torch.strided:
        what = f"a {B.layout} tensor" if isinstance(B, Tensor) else f"a {type(B).__name__}"
        raise TypeError(
            sentence(f"B is {what}; a dense tensor is needed.", remedy="Use torch.as_tensor(B), or B.to_dense().")
        )
    _require_dtype("B", B)
    n = A.shape[0]
    if B.dim() not in (1, 2) or B.shape[0] != n:
        raise ValueError(
            sentence(
                f"B has shape {tuple(B.shape)}; with A of shape {tuple(A.shape)} it must be ({n},) or ({n}, k).",
                "A batch of right-hand sides has its columns last here.",
                "Transpose B, or use sparsolve.solve(A, B) for (*batch, n, k).",
            )
        )
    for name, selection in (("solve", solve), ("transpose_solve", transpose_solve)):
        if B.dim() == 2 and B.shape[1] > 1 and isinstance(selection, str) and selection in METHODS:
            raise ValueError(
                sentence(
                    f"{name}={selection!r} takes one right-hand side; B has shape {tuple(B.shape)}.",
                    "SciPy's iterative methods work on one column at a time.",
                    "Use sparsolve.solve(A, B), which does all columns with one factorization, or solve=None here.",
                )
            )


def checked_options(
    A: Tensor, B: Tensor, solve: Selection, transpose_solve: Selection, kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The controls of the iterative methods, in the form that these take; nothing where both sides are callables."""
    selections = (solve, transpose_solve)
    if not any(s is None or isinstance(s, str) for s in selections):
        return {}
    _require_names(selections, kwargs)
    if not any(s in METHODS for s in selections if isinstance(s, str)):
        return {}
    numbers = {"rtol": _tolerance(kwargs), "atol": _number("atol", kwargs.get("atol"))}
    _require_callback(kwargs.get("callback"))
    counts = {"maxiter": _count("maxiter", kwargs, 0), "restart": _count("restart", kwargs, 1)}
    return {**numbers, **counts, "M": _operator(A, B, kwargs.get("M")), "x0": _guess(A, B, kwargs.get("x0"))}


def _require_dtype(name: str, t: Tensor) -> None:
    if t.dtype not in DTYPES:
        raise TypeError(
            sentence(
                f"{name} has dtype {t.dtype}; sparse solvers work in float32, float64, complex64 or complex128.",
                "Nothing is cast without being asked.",
                f"Use {name}.to(torch.{'float32' if t.is_floating_point() else 'float64'}).",
            )
        )


def _require_names(selections: tuple[Selection, ...], kwargs: Mapping[str, Any]) -> None:
    """Callables take any name; direct methods ignore all controls, gmres alone has restart."""
    if any(callable(s) for s in selections):
        return
    restart = "gmres" in selections or all(s in DIRECT for s in selections)
    unknown = [k for k in kwargs if k not in _CONTROLS and not (k == "restart" and restart)]
    if unknown:
        chosen = " and ".join(dict.fromkeys(repr(s) for s in selections))
        raise TypeError(
            sentence(
                f"sparse_solve_c4t got {', '.join(unknown)}, which solve={chosen} does not know.",
                "A misspelling, or an option that only SciPy's own function has.",
                f"The names are {', '.join(_CONTROLS)} (and restart for 'gmres'); a callable solver gets every name.",
            )
        )


def _tolerance(kwargs: Mapping[str, Any]) -> float | None:
    tol, rtol = (_number(name, kwargs.get(name)) for name in ("tol", "rtol"))
    if tol is not None and rtol is not None and tol != rtol:
        raise ValueError(
            sentence(
                f"tol is {tol} and rtol is {rtol}.",
                "They are two names of one relative tolerance.",
                "Give one of them.",
            )
        )
    return rtol if tol is None else tol


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            sentence(f"{name} is {value!r}; a tolerance is a number, at least 0.", remedy=f"Use {name}=1e-8, say.")
        ) from error
    if not number >= 0:
        raise ValueError(
            sentence(f"{name} is {number}; a tolerance is at least 0.", "A sign or a NaN.", f"Use {name}=1e-8, say.")
        )
    return number


def _count(name: str, kwargs: Mapping[str, Any], least: int) -> int | None:
    value = kwargs.get(name)
    if value is None:
        return None
    try:
        whole = int(value) == value
    except (TypeError, ValueError, OverflowError):  # no number, NaN, Inf
        whole = False
    if not whole or value < least:
        raise ValueError(
            sentence(
                f"{name} is {value!r}; it counts, so it is a whole number and at least {least}.",
                remedy="None is SciPy's default.",
            )
        )
    return int(value)


def _operator(A: Tensor, B: Tensor, M: Any) -> Any:
    """M, if it can be applied to a vector of these systems."""
    if M is None:
        return None
    wrap = "Wrap it: scipy.sparse.linalg.LinearOperator(A.shape, matvec=..., rmatvec=...)."
    if tuple(getattr(M, "shape", ())) != tuple(A.shape):
        raise ValueError(
            sentence(
                f"M has shape {getattr(M, 'shape', None)}; it approximates the inverse of A, so {tuple(A.shape)} is needed.",
                "A function or a factorization object in place of an operator, perhaps.",
                wrap,
            )
        )
    if not (hasattr(M, "matvec") or hasattr(M, "__matmul__")):
        raise TypeError(
            sentence(
                f"M is a {type(M).__name__}, which has a shape but is no operator.",
                "A factorization such as that of spilu, perhaps.",
                wrap.replace("...", "M.solve", 1),
            )
        )
    if _is_complex(M) and not (A.is_complex() or B.is_complex()):
        raise ValueError(
            sentence("M is complex, but A and B are real.", "x is real then.", "Give a real M, or a complex B.")
        )
    if isinstance(M, Tensor):
        _require_same_device("M", A, M)
        _require_entries(M)
    return M


def _require_same_device(name: str, A: Tensor, t: Tensor) -> None:
    if t.device != A.device:
        raise ValueError(
            sentence(
                f"{name} is on {t.device} and A on {A.device}; nothing is moved without being asked.",
                remedy=f"Use {name}.to(A.device).",
            )
        )


def _is_complex(M: Any) -> bool:
    if isinstance(M, Tensor):
        return M.is_complex()
    return getattr(getattr(M, "dtype", None), "kind", "") == "c"


def _require_entries(M: Tensor) -> None:
    """Conversions of torch take the indices as right, and write outside of their memory where they are not."""
    if M.layout is torch.sparse_coo:
        places = M.detach()._indices()
        check_places(places[0], places[1], M.shape)
    elif M.layout is torch.sparse_csr:
        check_entries(M.crow_indices(), M.col_indices(), (M.shape[0], M.shape[1]))
    elif M.layout is torch.sparse_csc:
        check_entries(M.ccol_indices(), M.row_indices(), (M.shape[1], M.shape[0]))


def _require_callback(callback: Any) -> None:
    if callback is not None and not callable(callback):
        raise TypeError(
            sentence(
                f"callback is a {type(callback).__name__}; it is called with x after each step.",
                remedy="Give a function of one argument.",
            )
        )


def _guess(A: Tensor, B: Tensor, x0: Any) -> Any:
    """x0 as an `(n,)` array of its own memory; on CUDA as a tensor."""
    if x0 is None:
        return None
    guess: Any
    if A.device.type == "cpu":
        guess = np.array(array(x0) if isinstance(x0, Tensor) else x0)
    else:
        guess = torch.as_tensor(x0).detach().clone()
        _require_same_device("x0", A, guess)
    shape = tuple(guess.shape)
    if math.prod(shape) != A.shape[0] or len(shape) > 2:
        raise ValueError(
            sentence(
                f"x0 has shape {shape}; it is a guess of x, so ({A.shape[0]},) is needed.",
                remedy="Leave it out to start from zero.",
            )
        )
    if _is_complex(guess) and not (A.is_complex() or B.is_complex()):
        raise ValueError(
            sentence("x0 is complex, but A and B are real.", "x is real then.", "Give its real part: x0.real.")
        )
    return guess.ravel()
