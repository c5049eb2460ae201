"""torch sparse tensors as SciPy matrices and back."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.linalg as sla
import torch
from torch import Tensor

import sparsolve as sps

DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128, torch.float16, torch.bool, torch.int8]
SHAPES = [(3, 3), (2, 5), (5, 2), (1, 1), (0, 4), (4, 0), (0, 0)]


def csr(dtype: torch.dtype = torch.float64, index: torch.dtype = torch.int64) -> Tensor:
    """[[4, 0, 1], [0, 5, 0], [2, 0, 6]], with a stored zero at (1, 2)."""
    parts = torch.tensor([0, 2, 4, 6]), torch.tensor([0, 2, 1, 2, 0, 2])
    values = torch.tensor([4, 1, 5, 0, 2, 6]).to(dtype)
    return torch.sparse_csr_tensor(*(p.to(index) for p in parts), values, (3, 3), check_invariants=True)


def unsorted(duplicates: bool = False) -> Tensor:
    col = torch.tensor([2, 0, 1, 1, 2, 0]) if duplicates else torch.tensor([2, 0, 2, 1, 2, 0])
    values = torch.arange(1.0, 7.0, dtype=torch.float64)
    return torch.sparse_csr_tensor(torch.tensor([0, 2, 4, 6]), col, values, (3, 3), check_invariants=False)


def random(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    return (torch.rand(shape) > 0.5).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back(shape: tuple[int, int], dtype: torch.dtype) -> None:
    D = random(shape, torch.float32)
    for T, there, back in (
        (D.to_sparse_csr(), sps.t2c_csr, sps.c2t_csr),
        (D.to_sparse(), sps.t2c_coo, sps.c2t_coo),
    ):
        T = T.to(dtype)
        T = T.coalesce() if T.layout is torch.sparse_coo else T
        M = there(T)
        assert M.shape == shape
        assert M.dtype == T.values().numpy().dtype
        R = back(M)
        assert R.layout is T.layout
        assert R.dtype is dtype
        assert R.shape == shape
        assert torch.equal(R.values(), T.values())


@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_index_dtype_is_kept(index: torch.dtype) -> None:
    M = sps.t2c_csr(csr(index=index))
    assert str(M.indices.dtype) == str(M.indptr.dtype) == str(index).removeprefix("torch.")
    assert sps.c2t_csr(M).col_indices().dtype is index
    assert sps.c2t_csr(M).crow_indices().dtype is index


def test_canonical_tensors_lend_their_memory() -> None:
    T = csr()
    M = sps.t2c_csr(T)
    for a, t in ((M.data, T.values()), (M.indices, T.col_indices()), (M.indptr, T.crow_indices())):
        assert a.ctypes.data == t.data_ptr()
        assert not a.flags.writeable
    assert M.has_canonical_format
    T = csr().to_dense().to_sparse()
    N = sps.t2c_coo(T)
    assert N.data.ctypes.data == T.values().data_ptr()
    assert N.row.ctypes.data == T.indices().data_ptr()
    assert N.row.dtype == np.int64
    assert M.copy().data.flags.writeable


def test_a_round_trip_shares_with_the_tensor() -> None:
    T = csr()
    R = sps.c2t_csr(sps.t2c_csr(T))
    assert R.values().data_ptr() == T.values().data_ptr()
    assert R.col_indices().data_ptr() == T.col_indices().data_ptr()
    C = T.to_dense().to_sparse()
    assert sps.c2t_coo(sps.t2c_coo(C)).values().data_ptr() == C.values().data_ptr()


IN_PLACE: dict[str, Callable[[Any], Any]] = {
    "spsolve": lambda M: sla.spsolve(M, np.ones(3)),
    "splu": lambda M: sla.splu(M.tocsc()),
    "sum_duplicates": lambda M: M.sum_duplicates(),
    "sort_indices": lambda M: M.sort_indices(),
    "eliminate_zeros": lambda M: M.eliminate_zeros(),
    "of the transpose": lambda M: M.T.eliminate_zeros(),
    "prune": lambda M: M.prune(),
    "data *= 2": lambda M: M.data.__imul__(2),
    "M *= 2": lambda M: M.__imul__(2),
    "M /= 2": lambda M: M.__itruediv__(2),
    "M[0, 0] = 9": lambda M: M.__setitem__((0, 0), 9),
    "M[1, 0] = 9": lambda M: M.__setitem__((1, 0), 9),
    "setdiag": lambda M: M.setdiag(9),
    "resize": lambda M: M.resize(2, 2),
}


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("name", IN_PLACE)
@pytest.mark.parametrize("kind", ["canonical int32", "canonical int64", "unsorted", "duplicates", "coo", "from scipy"])
def test_nothing_done_in_place_reaches_the_tensor(name: str, kind: str) -> None:
    if kind == "coo":
        T = csr().to_dense().to_sparse()
        M = sps.t2c_coo(T)
    elif kind == "from scipy":
        M = sps.t2c_csr(csr()).copy()
        T = sps.c2t_csr(M)
    else:
        index = torch.int32 if kind == "canonical int32" else torch.int64
        T = csr(index=index) if kind.startswith("canonical") else unsorted(kind == "duplicates")
        M = sps.t2c_csr(T)
    parts = T.indices() if kind == "coo" else T.col_indices(), T.values()
    before = [p.clone() for p in parts]
    with contextlib.suppress(ValueError, AttributeError, TypeError):  # read-only memory; COO has no such method
        IN_PLACE[name](M)
    for now, then in zip(parts, before, strict=True):
        assert torch.equal(now, then)


def test_direct_solvers_and_graph_routines_take_read_only_memory() -> None:
    M, b = sps.t2c_csr(csr()), np.ones(3)
    x = sla.spsolve(M, b)
    np.testing.assert_allclose(M @ x, b)
    np.testing.assert_allclose(sla.cg(M @ M.T, b, rtol=1e-12)[0], np.linalg.solve((M @ M.T).toarray(), b))
    sp.csgraph.connected_components(M)
    sp.csgraph.reverse_cuthill_mckee(M)


@pytest.mark.parametrize("duplicates", [False, True])
def test_what_is_not_canonical_is_copied_as_it_is(duplicates: bool) -> None:
    T = unsorted(duplicates)
    M = sps.t2c_csr(T)
    assert not M.has_canonical_format
    assert M.data.ctypes.data != T.values().data_ptr()
    assert M.indices.tolist() == T.col_indices().tolist()
    M.sum_duplicates()
    R = sps.c2t_csr(M)
    np.testing.assert_array_equal(R.to_dense().numpy(), M.toarray())


def test_uncoalesced_coo_warns() -> None:
    T = torch.sparse_coo_tensor(
        torch.tensor([[1, 0, 1], [1, 0, 1]]), torch.tensor([1.0, 2.0, 3.0]), (2, 2), check_invariants=False
    )
    with pytest.warns(UserWarning, match="not coalesced"):
        M = sps.t2c_coo(T)
    assert M.data.tolist() == [2.0, 4.0]
    assert not T.is_coalesced()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sps.t2c_coo(T.coalesce())


def test_a_tensor_wrongly_called_coalesced() -> None:
    i, v = torch.tensor([[1, 0, 1], [1, 0, 1]]), torch.tensor([1.0, 2.0, 3.0])
    M = sps.t2c_coo(torch.sparse_coo_tensor(i, v, (2, 2), is_coalesced=True, check_invariants=False))
    np.testing.assert_array_equal(M.toarray(), [[2, 0], [0, 4]])
    np.testing.assert_array_equal(M.data, [2, 4])


def test_gradients_and_lazy_bits_are_left_behind() -> None:
    v = torch.randn(6, dtype=torch.complex128)
    T = csr()
    C = torch.sparse_csr_tensor(T.crow_indices(), T.col_indices(), v.conj(), (3, 3), check_invariants=True)
    np.testing.assert_array_equal(sps.t2c_csr(C).data, np.conj(v.numpy()))
    N = torch.sparse_coo_tensor(
        torch.tensor([[0, 1], [1, 0]]), v[:2].conj().imag, (2, 2), is_coalesced=True, check_invariants=False
    )
    np.testing.assert_array_equal(sps.t2c_coo(N).data, -v[:2].imag.numpy())
    assert sps.t2c_csr(csr().requires_grad_()).nnz == 6
    assert sps.t2c_coo(torch.eye(2).to_sparse().requires_grad_()).nnz == 2


@pytest.mark.parametrize("kind", ["unsorted", "duplicates"])
@pytest.mark.parametrize("cls", [sp.csr_matrix, sp.csr_array])
def test_c2t_leaves_the_users_matrix_alone(kind: str, cls: Any) -> None:
    indices = [2, 0, 1, 1, 2, 0] if kind == "duplicates" else [2, 0, 2, 1, 2, 0]
    M = cls((np.arange(1.0, 7.0), np.array(indices), np.array([0, 2, 4, 6])), shape=(3, 3))
    before, flags = M.copy(), dict(vars(M))
    T = sps.c2t_csr(M)
    assert vars(M).keys() == flags.keys()
    assert all(vars(M)[k] is flags[k] for k in flags)
    np.testing.assert_array_equal(M.indices, before.indices)
    np.testing.assert_array_equal(T.to_dense().numpy(), M.toarray())
    assert (T.col_indices().diff()[torch.tensor([0, 2])[: 1 if kind == "duplicates" else 2]] > 0).all()
    C = M.tocoo()
    row, flag = C.row.copy(), C.has_canonical_format
    K = sps.c2t_coo(C)
    assert K.is_coalesced()
    np.testing.assert_array_equal(K.to_dense().numpy(), M.toarray())
    np.testing.assert_array_equal(C.row, row)
    assert C.has_canonical_format == flag


def test_c2t_of_odd_matrices() -> None:
    M = sp.csr_matrix((2, 3))
    M.data = np.array([1, 2, 3, 9], dtype=np.float16)  # a duplicate, and an entry beyond the last pointer
    M.indices, M.indptr = np.array([2, 1, 1, 5], dtype=np.int32), np.array([0, 1, 3], dtype=np.int64)
    T = sps.c2t_csr(M)
    assert T.dtype is torch.float16
    assert T.values().tolist() == [1.0, 5.0]
    assert T.col_indices().dtype is T.crow_indices().dtype is torch.int64
    B = sp.csr_matrix(np.eye(2))
    B.data = B.data.astype(">f8")
    assert sps.c2t_csr(B).dtype is torch.float64
    boolean = sp.coo_array((np.ones(3, dtype=bool), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert sps.c2t_coo(boolean).values().tolist() == [True, True]


def bad_csr(crow: list[int], first: int = 0) -> Tensor:
    return torch.sparse_csr_tensor(
        torch.tensor(crow), torch.tensor([first, 1, 2]), torch.ones(3), (3, 3), check_invariants=False
    )


def bad_coo(row: int, coalesced: bool) -> Tensor:
    indices = torch.tensor([[0, row], [0, 1]])
    return torch.sparse_coo_tensor(indices, torch.ones(2), (3, 3), check_invariants=False, is_coalesced=coalesced)


DENSE, BATCH = torch.eye(2), torch.eye(2).expand(3, 2, 2)
T2C_ERRORS = [
    (sps.t2c_csr, lambda: DENSE, ValueError, r"layout torch.strided.*to_sparse_csr\(\)"),
    (sps.t2c_csr, lambda: DENSE.to_sparse(), ValueError, "layout torch.sparse_coo"),
    (sps.t2c_coo, lambda: DENSE.to_sparse_csr(), ValueError, r"layout torch.sparse_csr.*to_sparse\(\)"),
    (sps.t2c_csr, lambda: DENSE.to_sparse_csc(), ValueError, "layout torch.sparse_csc"),
    (sps.t2c_csr, lambda: BATCH.to_sparse_csr(), ValueError, r"shape \(3, 2, 2\).*2-D"),
    (sps.t2c_coo, lambda: BATCH.to_sparse(), ValueError, "one matrix at a time"),
    (sps.t2c_coo, lambda: torch.ones(3).to_sparse(), ValueError, r"shape \(3,\)"),
    (sps.t2c_coo, lambda: BATCH.to_sparse(2), ValueError, "1 dense dimensions"),
    (sps.t2c_csr, lambda: BATCH.to_sparse_csr(dense_dim=1), ValueError, "1 dense dimensions"),
    (sps.t2c_csr, lambda: sp.eye_array(2), TypeError, "T is a.*c2t_.* for SciPy"),
    (sps.SparseMatrix.from_scipy, lambda: DENSE.to_sparse_csr(), TypeError, "M is a Tensor.*SparseMatrix.from_torch"),
    (sps.t2c_csr, lambda: DENSE.to(torch.bfloat16).to_sparse_csr(), TypeError, "bfloat16.*NumPy"),
    (sps.t2c_csr, lambda: csr().to("meta"), sps.BackendUnavailableError, r"T is on meta.*T\.cpu\(\)"),
    (sps.t2c_coo, lambda: DENSE.to_sparse().to("meta"), sps.BackendUnavailableError, "T is on meta"),
    (sps.t2c_csr, lambda: bad_csr([0, 10**9, 2 * 10**9, 3 * 10**9]), sps.PatternError, r"crow\[3\] is 3000000000"),
    (sps.t2c_csr, lambda: bad_csr([0, 2, 1, 3]), sps.PatternError, r"crow\[2\] = 1 is below"),
    (sps.t2c_csr, lambda: bad_csr([0, 1, 2, 3], 7), sps.PatternError, "Entry 0 .* column 7"),
    (sps.t2c_coo, lambda: bad_coo(7, True), sps.PatternError, "Entry 1 is in row 7, outside"),
    (sps.t2c_coo, lambda: bad_coo(-10, False), sps.PatternError, "Entry 1 is in row -10, outside"),
    (sps.c2t_csr, lambda: DENSE.to_sparse_csr(), TypeError, "M is a Tensor"),
    (sps.c2t_csr, lambda: np.eye(2), TypeError, "scipy.sparse.csr_matrix"),
    (sps.c2t_csr, lambda: sp.csc_matrix(np.eye(2)), ValueError, r"format 'csc'.*tocsr\(\)"),
    (sps.c2t_coo, lambda: sp.csr_array(np.eye(2)), ValueError, r"format 'csr'.*tocoo\(\)"),
    (sps.c2t_coo, lambda: sp.coo_array(np.ones(3)), ValueError, "2-D"),
    (sps.c2t_csr, lambda: sp.csr_matrix(np.eye(2), dtype=np.longdouble), TypeError, r"torch does not.*numpy\.float64"),
    (sps.c2t_csr, lambda: sp.csr_matrix(np.eye(2), dtype=np.clongdouble), TypeError, r"numpy\.complex128"),
    (sps.c2t_coo, lambda: sp.coo_matrix(np.eye(2), dtype=np.clongdouble), TypeError, r"numpy\.complex128"),
    (sps.t2c_csr, lambda: with_values(csr(), torch.complex32), TypeError, r"torch\.complex64"),
    (sps.c2t_coo, lambda: cut(sp.coo_matrix(np.eye(2)), "data"), ValueError, "2 in row, 2 in col, 1 in data"),
    (sps.c2t_coo, lambda: cut(sp.coo_array(np.eye(2)), "row"), ValueError, "1 in row, 2 in col, 2 in data"),
    (sps.c2t_csr, lambda: cut(sp.csr_matrix(np.eye(2)), "data"), ValueError, "2 in indices, 1 in data"),
    (sps.SparseMatrix.from_scipy, lambda: cut(sp.csr_matrix(np.eye(2)), "data"), ValueError, "different lengths"),
]


def with_values(T: Tensor, dtype: torch.dtype) -> Tensor:
    parts = T.crow_indices(), T.col_indices(), torch.zeros(len(T.values()), dtype=dtype)
    return torch.sparse_csr_tensor(*parts, T.shape, check_invariants=False)


def cut(M: Any, name: str) -> Any:
    """One of the arrays of M has lost its end."""
    setattr(M, name, getattr(M, name)[:-1])
    return M


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize(("function", "make", "error", "message"), T2C_ERRORS)
def test_errors(function: Any, make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        function(make())


def test_the_default_device_moves_nothing() -> None:
    T = csr()
    with torch.device("meta"):
        back = [sps.c2t_csr(sps.t2c_csr(T)), sps.c2t_coo(sps.t2c_coo(T.to_sparse_coo()))]
        M = sps.SparseMatrix.from_torch(T)
        back += [M.to_torch(), M.to_torch(torch.sparse_coo), M.to_dense()]
        assert M.to_scipy().shape == (3, 3)
    for B in back:
        assert torch.equal(B.to_dense(), T.to_dense())


def test_indices_out_of_range() -> None:
    M = sp.csr_matrix(np.eye(2))
    M.indices[1] = 7
    with pytest.raises(ValueError, match="do not describe a matrix"):
        sps.c2t_csr(M)
    for pointers in ([1, 1, 2], [0, 2, 1]):  # not from 0; falling
        M = sp.csr_matrix(np.eye(2))
        M.indptr[:] = pointers
        with pytest.raises(ValueError, match="do not describe a matrix"):
            sps.c2t_csr(M)
    C = sp.coo_matrix(np.eye(2))
    C.row[1] = 7
    with pytest.raises(ValueError, match="do not describe a matrix"):
        sps.c2t_coo(C)


def test_only_the_arrays_that_were_lent_are_shared_again() -> None:
    """The same memory read as other numbers, or in other steps, is not what the tensor holds."""
    T = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).to_sparse_csr()
    for changed in (lambda a: a.view(np.int32), lambda a: np.lib.stride_tricks.as_strided(a, strides=(0,))):
        M = sps.t2c_csr(T)
        M.data = changed(M.data)
        again = sps.c2t_csr(M)
        assert again.values().data_ptr() != T.values().data_ptr()
        assert again.values().tolist() == M.data.tolist()


def test_a_coalesced_tensor_is_called_canonical() -> None:
    M = sps.t2c_coo(torch.eye(2).to_sparse())
    assert M.has_canonical_format
    assert sps.t2c_csr(torch.eye(2).to_sparse_csr()).has_canonical_format
