"""What the conversions accept: their checks, each a sentence of fact, cause and remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from .errors import BackendUnavailableError, PatternError, sentence

__all__ = [
    "is_cupy",
    "require_as_many",
    "require_described",
    "require_matrix",
    "require_tensor",
    "undescribed",
    "unknown_dtype",
]


def require_tensor(T: Tensor, layout: torch.layout, method: str) -> None:
    """One 2-D sparse tensor of this layout on the CPU or a CUDA device; `method` makes one of another."""
    if not isinstance(T, Tensor):
        raise TypeError(
            sentence(
                f"T is a {type(T).__name__}; a {layout} tensor is needed.",
                remedy="Use c2t_* for SciPy, and A.to_scipy() for a SparseMatrix.",
            )
        )
    if T.layout is not layout:
        raise ValueError(
            sentence(
                f"T has layout {T.layout}; {layout} is needed.",
                "The function's name ends in the layout that it takes.",
                f"Use T.{method}().",
            )
        )
    if T.dim() != 2 or T.dense_dim() != 0:
        raise ValueError(
            sentence(
                f"T has shape {tuple(T.shape)} with {T.dense_dim()} dense dimensions; SciPy's matrices are 2-D.",
                "A batch of matrices, or a vector, is the usual cause.",
                "Convert one matrix at a time.",
            )
        )
    if T.device.type not in ("cpu", "cuda"):
        raise BackendUnavailableError(
            sentence(
                f"T is on {T.device}; SciPy works on the CPU, CuPy on CUDA devices, and nothing is moved without being asked.",
                "There is no backend for that device in this version.",
                "Use T.cpu().",
            )
        )


def require_as_many(values: Tensor, indices: Tensor) -> None:
    """As many values as entries."""
    if values.shape[0] != indices.shape[0]:
        raise PatternError(sentence(f"T has {values.shape[0]} values for {indices.shape[0]} entries."))


def require_matrix(M: Any, format: str) -> None:
    """One 2-D SciPy or CuPy matrix of this format."""
    if not (sp.issparse(M) or is_cupy(M)):
        remedy = f"Use scipy.sparse.{format}_matrix(M)."
        if isinstance(M, Tensor):
            remedy = "SparseMatrix.from_torch and t2c_* take a sparse tensor."
        elif isinstance(M, LinearOperator):
            remedy = "It has no entries: sparsolve.Operator is a matrix that is a function, of tensors."
        raise TypeError(sentence(f"M is a {type(M).__name__}; a SciPy or CuPy sparse matrix is needed.", remedy=remedy))
    if len(M.shape) != 2:
        raise ValueError(sentence(f"M has shape {M.shape}; it must be 2-D.", remedy="Use M.reshape(1, -1)."))
    if M.format != format:
        raise ValueError(
            sentence(
                f"M has format {M.format!r}; {format!r} is needed, as the function's name says.",
                remedy=f"Use M.to{format}().",
            )
        )
    lengths = {name: len(a) for name, a in _parts(M, format).items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} in {name}" for name, count in lengths.items())
        raise ValueError(
            sentence(
                f"The arrays of M have different lengths: {counts}.",
                "One of them was replaced or cut, perhaps.",
                f"Make M anew from arrays of one length: scipy.sparse.{format}_matrix(...).",
            )
        )


def undescribed(fact: str, look: str = "M.check_format() looks at them in SciPy (CSR).") -> PatternError:
    """The error for index arrays that describe no matrix; `look` says where they can be looked at."""
    cause = "They were written by hand, perhaps with one-based indices."
    return PatternError(sentence(f"The index arrays of M do not describe a matrix: {fact.rstrip('.')}.", cause, look))


def unknown_dtype(T: Tensor, where: str) -> TypeError:
    """The error for a tensor whose dtype its counterpart does not have."""
    wider = "complex64" if T.is_complex() else "float32"
    return TypeError(sentence(f"T has dtype {T.dtype}, which {where} not have.", remedy=f"Use T.to(torch.{wider})."))


def require_described(M: Any) -> None:
    """Index arrays of a SciPy matrix that describe one: SciPy converts without a look, and writes outside of its memory where they do not.

    Columns of a CSR matrix are left to the one who takes them.
    """
    if M.format == "coo":
        if not len(M.row) == len(M.col) == len(M.data):
            raise undescribed(f"there are {len(M.row)} rows, {len(M.col)} columns and {len(M.data)} values.")
        _require_range("row", M.row, M.shape[0])
        _require_range("column", M.col, M.shape[1])
    elif M.format in ("csr", "csc", "bsr"):
        _require_compressed(M)


def _require_compressed(M: Any) -> None:
    R, C = M.blocksize if M.format == "bsr" else (1, 1)
    outer, inner = (M.shape[1], M.shape[0]) if M.format == "csc" else (M.shape[0] // R, M.shape[1] // C)
    if len(M.indptr) != outer + 1:
        raise undescribed(f"indptr has {len(M.indptr)} entries, and {outer + 1} are needed.")
    if M.indptr[0] != 0 or (np.diff(M.indptr) < 0).any():
        raise undescribed("indptr must start at 0 and never decrease.")
    entries = int(M.indptr[-1])
    if entries > len(M.indices) or entries > len(M.data):
        raise undescribed(f"indptr ends at {entries}, of {len(M.indices)} indices and {len(M.data)} values.")
    if M.format != "csr":
        _require_range("row" if M.format == "csc" else "block column", M.indices[:entries], inner)


def _require_range(name: str, indices: Any, size: int) -> None:
    outside = (indices < 0) | (indices >= size)
    if outside.any():
        entry = int(outside.argmax())
        raise undescribed(f"entry {entry} is in {name} {indices[entry]}, outside [0, {size}).")


def is_cupy(M: Any) -> bool:
    """Whether M is one of CuPy's sparse matrices, told without importing CuPy."""
    return type(M).__module__.partition(".")[0].endswith("cupyx") and hasattr(M, "format")


def _parts(M: Any, format: str) -> dict[str, Any]:
    """The arrays that have a number for each entry, if that can be seen without the device."""
    if format == "coo":
        return {"row": M.row, "col": M.col, "data": M.data}
    if is_cupy(M):
        return {}
    entries = int(M.indptr[-1])  # more than that may be allocated
    return {"indices": M.indices[:entries], "data": M.data[:entries]}
