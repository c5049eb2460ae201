"""Names of other libraries, and what does the same here: for the error where somebody tries one."""

from __future__ import annotations

from .errors import sentence

__all__ = ["MATRIX", "MODULE", "PATTERN", "missing"]

_SOLVE = "solve(A, b) does it; the factorization is remembered for the next solve."
_ARRAY = "compute with A.values, on the same pattern: SparseMatrix(f(A.values), A.pattern)."
MODULE = {
    **dict.fromkeys(("spsolve", "splu", "lu", "factorized", "inv", "linsolve"), _SOLVE),
    **{
        name.lower(): f"solve(A, b, {name}()) does it."
        for name in ("Cholesky", "CG", "MINRES", "GMRES", "BiCGStab", "CGS")
    },
    **dict.fromkeys(("BiCGSTAB", "BICGSTAB", "Bicgstab"), "Its name is BiCGStab."),
    **dict.fromkeys(("LinearOperator", "linear_operator"), "Operator(function, params) is one."),
    **dict.fromkeys(("logdet", "det"), "slogdet(A) has the sign and the logarithm."),
    **dict.fromkeys(
        ("selected_inverse", "inverse_diagonal", "variances"), "inverse_entries(A).diagonal() has the diagonal."
    ),
    **dict.fromkeys(("eye", "diags", "spdiags", "identity"), "SparseMatrix.from_diagonal(d) makes one."),
    **dict.fromkeys(
        ("bmat", "block_array", "block_diag", "hstack", "vstack"),
        "SparseMatrix.from_blocks(rows) puts blocks together.",
    ),
    **dict.fromkeys(
        ("csr_matrix", "csr_array", "coo_matrix", "coo_array", "csc_matrix", "csc_array"),
        "SparseMatrix.from_scipy converts one.",
    ),
    **dict.fromkeys(("mm", "mv", "spmm", "spmv"), "matmul(A, x) does it."),
    **dict.fromkeys(("c2t_csc", "t2c_csc"), "c2t_csr and t2c_csr convert to and from SciPy; M.tocsr() is CSR."),
    "IncompleteLU": "Its name is ILU.",
    "spilu": "GMRES(preconditioner=ILU()) solves with one.",
}
MATRIX = {
    **dict.fromkeys(("todense", "toarray", "dense"), "Use A.to_dense()."),
    **dict.fromkeys(("tocsr", "tocsc", "tocoo"), "Use A.to_scipy(), and SciPy's own."),
    **dict.fromkeys(("t", "transpose"), "Use A.mT, or A.mH for the adjoint."),
    **dict.fromkeys(("mv", "mm", "matmul", "dot"), "Use A @ x."),
    **dict.fromkeys(("solve", "inv", "inverse"), "Use sparsolve.solve(A, b)."),
    **dict.fromkeys(("det", "logdet", "slogdet"), "Use sparsolve.slogdet(A)."),
    **dict.fromkeys(("data", "val", "vals"), "Use A.values."),
    **dict.fromkeys(("crow_indices", "indptr", "crow", "rowptr"), "Use A.pattern.crow."),
    **dict.fromkeys(("col_indices", "indices", "col"), "Use A.pattern.col; A.pattern.rows() has the rows."),
    **dict.fromkeys(("row", "rows"), "Use A.pattern.rows()."),
    **dict.fromkeys(("abs", "conj", "real", "imag", "exp", "sqrt"), f"To do so with its entries, {_ARRAY}"),
    "grad": "Use A.values.grad, which has one number for each entry.",
    "diag": "Use A.diagonal().",
    "sum": "Use A @ torch.ones(...) for the sums of rows; A.values.sum() is that of all.",
    "backward": "Call it of a loss; the gradient is in A.values.grad.",
}
PATTERN = {
    **dict.fromkeys(("row", "row_indices"), "Use pattern.rows()."),
    **dict.fromkeys(
        ("T", "t", "mT", "mH", "transpose"), "Use pattern.adjoint(), which has the order of the entries too."
    ),
    **dict.fromkeys(("crow_indices", "indptr", "rowptr"), "Use pattern.crow."),
    **dict.fromkeys(("col_indices", "indices"), "Use pattern.col."),
}


def missing(owner: str, name: str, known: dict[str, str]) -> AttributeError:
    """The error for an attribute that is not there."""
    return AttributeError(sentence(f"{owner} has no attribute {name!r}.", remedy=known.get(name, "")))
