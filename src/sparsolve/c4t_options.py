"""The keyword arguments that `sparse_solve_c4t` accepts: each check a sentence of fact, cause and remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .backends.host import array
from .backends.named import METHODS, SPARSE
from .c4t_arguments import DIRECT, Selection
from .compressed import dense_dimensions
from .errors import sentence
from .indices import check_entries, check_places
from .levels import is_wrapped, outside_transforms, unwrapped
from .matrix import SparseMatrix
from .operands import require_dtype
from .solvers import real

__all__ = ["OWN_NAMES", "checked_options"]

OWN_NAMES = ("x0", "callback")  # what belongs to the call's own solve
_CONTROLS = ("tol", "rtol", "atol", "maxiter", "x0", "M", "callback")
_ELSEWHERE = {
    "callback_type": "Leave out callback_type: gmres' callback gets what SciPy calls 'pr_norm', the others' callbacks get x.",
    "use_umfpack": "Leave out use_umfpack: a direct solve takes the library that suits; sparsolve.LU(backend=...) names one.",
    "permc_spec": "Leave out permc_spec: a direct solve chooses its ordering.",
}


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


def _require_names(selections: tuple[Selection, ...], kwargs: Mapping[str, Any]) -> None:
    """Callables take any name; direct methods ignore all controls, gmres alone has restart."""
    if any(callable(s) for s in selections):
        return
    restart = "gmres" in selections or all(s in DIRECT for s in selections)
    unknown = [k for k in kwargs if k not in _CONTROLS and not (k == "restart" and restart)]
    if unknown:
        chosen = " and ".join(dict.fromkeys(repr(s) for s in selections))
        names = f"The names are {', '.join(_CONTROLS)} (and restart for 'gmres'); a callable solver gets every name."
        raise TypeError(
            sentence(
                f"sparse_solve_c4t got {', '.join(unknown)}, which solve={chosen} does not know.",
                "A misspelling, or an option that only SciPy's own function has.",
                " ".join([*(_ELSEWHERE[k] for k in unknown if k in _ELSEWHERE), names]),
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
    number = real(value)
    if number is None:
        raise TypeError(
            sentence(f"{name} is {value!r}; a tolerance is a number, at least 0.", remedy=f"Use {name}=1e-8, say.")
        )
    if not 0 <= number < math.inf:
        raise ValueError(
            sentence(
                f"{name} is {number}; a tolerance is at least 0, and finite.",
                "A sign, a NaN or an overflow.",
                f"Use {name}=1e-8, say.",
            )
        )
    return number


def _count(name: str, kwargs: Mapping[str, Any], least: int) -> int | None:
    value = kwargs.get(name)
    if value is None:
        return None
    number = real(value)
    if number is None or not number.is_integer() or number < least:
        raise ValueError(
            sentence(
                f"{name} is {value!r}; it counts, so it is a whole number and at least {least}.",
                remedy="None is SciPy's default.",
            )
        )
    return int(number)


def _operator(A: Tensor, B: Tensor, M: Any) -> Any:
    """M, if it can be applied to a vector of these systems."""
    if M is None:
        return None
    _require_operator(A, M)
    if _is_complex(M) and not (A.is_complex() or B.is_complex()):
        raise ValueError(
            sentence("M is complex, but A and B are real.", "x is real then.", "Give a real M, or a complex B.")
        )
    if isinstance(M, Tensor):
        M = _unbatched("M", M)
        _require_same_device("M", A, M)
        _require_form(M)
        with outside_transforms():
            _require_entries(M)
    else:
        _require_numbers("M", M)
    return M


def _require_operator(A: Tensor, M: Any) -> None:
    """Of A's shape, and something that `aslinearoperator` or the conversions take."""
    if isinstance(M, SparseMatrix):
        raise TypeError(
            sentence(
                "M is a SparseMatrix; SciPy's methods take tensors, arrays, SciPy matrices and LinearOperators.",
                "SparseMatrix belongs to sparsolve.solve.",
                "Use M.to_torch().",
            )
        )
    wrap = "Wrap it: scipy.sparse.linalg.LinearOperator(A.shape, matvec=..., rmatvec=...)."
    if tuple(getattr(M, "shape", ())) != tuple(A.shape):
        raise ValueError(
            sentence(
                f"M has shape {getattr(M, 'shape', None)}; it approximates the inverse of A, so {tuple(A.shape)} is needed.",
                "A function or a factorization object in place of an operator, perhaps.",
                wrap,
            )
        )
    arrays = isinstance(M, (Tensor, np.ndarray)) or "cupy" in type(M).__module__
    if not (arrays or hasattr(M, "matvec") or hasattr(M, "todense")):
        raise TypeError(
            sentence(
                f"M is a {type(M).__name__}, which has a shape but is no operator.",
                "A factorization such as that of spilu, perhaps.",
                wrap.replace("...", "M.solve", 1) if hasattr(M, "solve") else wrap,
            )
        )


def _unbatched(name: str, t: Tensor) -> Tensor:
    """A tensor as outside of all transforms, for which it is a constant."""
    t = unwrapped(t)
    if is_wrapped(t):
        raise TypeError(
            sentence(
                f"{name} is batched by vmap; A and B may be, and {name} is one for all.",
                remedy="Leave it out, or use sparsolve.solve, whose x0 may be batched."
                if name == "x0"
                else "Use sparsolve.solve, whose preconditioners are made from each matrix.",
            )
        )
    return t


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


def _require_form(M: Tensor) -> None:
    """A dtype and a layout that can be applied to a vector."""
    require_dtype("M", M)
    if M.layout not in (torch.strided, *SPARSE):
        remedy = "Use M.to_sparse_csr()." if M.layout in (torch.sparse_bsr, torch.sparse_bsc) else "Use M.to_dense()."
        raise TypeError(
            sentence(f"M is a {M.layout} tensor; a dense, COO, CSR or CSC tensor is needed.", remedy=remedy)
        )
    if M.layout is not torch.strided and dense_dimensions(M):
        raise ValueError(
            sentence(
                f"M has {dense_dimensions(M)} dense dimensions; its entries must be numbers.",
                remedy="Use M.to_dense().",
            )
        )


def _require_numbers(name: str, a: Any) -> None:
    """Not text or objects, where it says what it holds."""
    dtype = getattr(a, "dtype", None)
    if getattr(dtype, "kind", "f") not in "biufc":
        raise TypeError(
            sentence(
                f"{name} holds {dtype}, which are no numbers.",
                "Text, None or a list of lists of different lengths, perhaps.",
                f"Give {name} as an array of floating-point numbers.",
            )
        )


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
    """x0 as an `(n,)` array; on CUDA as a tensor."""
    if x0 is None:
        return None
    guess = _numbers(A, x0)
    shape = tuple(guess.shape)
    if shape not in ((A.shape[0],), (A.shape[0], 1)):
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


def _numbers(A: Tensor, x0: Any) -> Any:
    """x0 as a NumPy array, or as a tensor on A's device; whoever solves copies it."""
    if isinstance(x0, Tensor):
        _require_same_device("x0", A, x0)
        if x0.layout is not torch.strided:
            raise TypeError(
                sentence(f"x0 is a {x0.layout} tensor; a dense one is needed.", remedy="Use x0.to_dense().")
            )
        if (x0.is_floating_point() or x0.is_complex()) and x0.dtype is not torch.float16:
            require_dtype("x0", x0)  # NumPy has no others
        x0 = _unbatched("x0", x0)
        with outside_transforms():
            return array(x0) if A.device.type == "cpu" else x0.detach()
    try:
        guess = np.asarray(x0) if A.device.type == "cpu" else torch.as_tensor(x0).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            sentence(
                f"x0 is a {type(x0).__name__} that is no array of numbers: {error}",
                "A list of text, or of lists of different lengths, perhaps.",
                f"x0 is a guess of x, so an array of shape ({A.shape[0]},).",
            )
        ) from error
    if isinstance(guess, Tensor):
        _require_same_device("x0", A, guess)
    else:
        _require_numbers("x0", guess)
    return guess
