"""`Pattern` and `SparseMatrix`: validation, conversions, pytrees."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import optree
import pytest
import torch
import torch.utils._pytree as torch_pytree
from torch.fx.experimental.proxy_tensor import make_fx

import oracle
import sparsolve as sps
from sparsolve import indices
from sparsolve import pattern as pattern_module
from systems import SYSTEMS, with_indices

F64, C128 = torch.float64, torch.complex128
INDEX = [torch.int32, torch.int64]


def pattern_of(crow, col, shape, dtype=torch.int64):
    return sps.Pattern(torch.tensor(crow, dtype=dtype), torch.tensor(col, dtype=dtype), shape)


# ---- validation

WRONG = {
    "first": ([1, 2, 3], [0, 1, 1], (2, 2), r"crow\[0\] is 1; row pointers start at 0"),
    "last": ([0, 1, 2], [0, 1, 1], (2, 2), r"crow\[2\] is 2, but col has 3 entries"),
    "past": ([0, 1, 4], [0, 1, 1], (2, 2), r"crow\[2\] is 4, but col has 3 entries"),
    "falling": ([0, 2, 1, 3], [0, 1, 1], (3, 3), r"crow\[2\] = 1 is below crow\[1\] = 2"),
    "column": ([0, 1, 3], [0, 1, 2], (2, 2), r"Entry 2 \(row 1\) is in column 2, outside \[0, 2\)"),
    "negative column": ([0, 1, 3], [0, -1, 1], (2, 2), r"Entry 1 \(row 1\) is in column -1, outside \[0, 2\)"),
    "row indices": ([0, 1, 1], [0, 1, 1], (3, 2), r"crow has 3 entries; a matrix with 3 rows needs 4.*from_coo"),
    "negative shape": ([0], [], (-1, 2), r"shape is \(-1, 2\)"),
    "column pointers of no column": ([0, 1], [0], (1, 0), r"Entry 0 \(row 0\) is in column 0, outside \[0, 0\)"),
}


@pytest.mark.parametrize("dtype", INDEX, ids=str)
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_entries_are_named(kind, dtype):
    crow, col, shape, message = WRONG[kind]
    with pytest.raises(sps.PatternError, match=message):
        pattern_of(crow, col, shape, dtype)


@pytest.mark.parametrize(
    ("crow", "col", "message"),
    [
        ([0, 1], torch.tensor([0]), r"crow is a list, not a torch.Tensor"),
        (torch.tensor([0, 1]), np.array([0]), r"col is a ndarray, not a torch.Tensor"),
        (torch.tensor([0.0, 1.0]), torch.tensor([0]), r"crow is torch.float32; indices are torch.int32 or torch.int64"),
        (torch.tensor([0, 1]), torch.tensor([0], dtype=torch.int16), r"col is torch.int16.*col.to\(torch.int64\)"),
        (torch.tensor([[0, 1]]), torch.tensor([0]), r"crow has shape \(1, 2\); it must be one-dimensional"),
        (torch.tensor([0, 1]), torch.tensor([0], dtype=torch.int32), r"crow is torch.int64 on cpu and col torch.int32"),
    ],
)
def test_wrong_arrays(crow, col, message):
    with pytest.raises(sps.PatternError, match=message):
        sps.Pattern(crow, col, (1, 1))


@pytest.mark.parametrize("call", ["solve", "matmul", "to_dense", "mH", "to_torch"])
@pytest.mark.parametrize("layout", ["csr", "csc"])
@pytest.mark.parametrize("kind", ["first", "last", "past", "falling"])
def test_unchecked_torch_tensors_are_refused(kind, layout, call):
    """torch builds these without a check; wrong row pointers once wrote outside the memory of `rows()`."""
    crow, col, shape, _ = WRONG[kind]
    make = torch.sparse_csr_tensor if layout == "csr" else torch.sparse_csc_tensor
    T = make(torch.tensor(crow), torch.tensor(col), torch.ones(3), shape, check_invariants=False)
    calls = {
        "solve": lambda: sps.solve(T, torch.ones(shape[0])),
        "matmul": lambda: sps.matmul(T, torch.ones(shape[0])),
        "to_dense": lambda: sps.SparseMatrix.from_torch(T).to_dense(),
        "mH": lambda: sps.SparseMatrix.from_torch(T).mH @ torch.ones(shape[0]),
        "to_torch": lambda: sps.SparseMatrix.from_torch(T).to_torch(),
    }
    with pytest.raises(sps.PatternError, match="crow"):
        calls[call]()


def test_torch_is_handed_no_negative_count(monkeypatch):
    """Its `repeat_interleave` writes outside of its memory for some of them, and says so for others only."""
    seen, torchs = [], torch.repeat_interleave
    record = lambda each, counts, **k: seen.append(int(counts.min())) or torchs(each, counts.clamp(min=0), **k)  # noqa: E731
    monkeypatch.setattr(torch, "repeat_interleave", record)
    crow, col, shape, _ = WRONG["falling"]
    T = torch.sparse_csr_tensor(torch.tensor(crow), torch.tensor(col), torch.ones(3), shape, check_invariants=False)
    with pytest.raises(sps.PatternError, match="crow"):
        sps.SparseMatrix.from_torch(T).pattern.rows()
    assert seen == [0]


@pytest.mark.parametrize("kind", ["column", "negative column"])
def test_unchecked_columns_are_refused(kind):
    crow, col, shape, message = WRONG[kind]
    T = torch.sparse_csr_tensor(torch.tensor(crow), torch.tensor(col), torch.ones(3), shape, check_invariants=False)
    for call in (sps.solve, sps.matmul):
        with pytest.raises(sps.PatternError, match=message):
            call(T, torch.ones(2))


@pytest.mark.parametrize(
    ("ccol", "row", "message"),
    [
        ([0, 2, 1, 2], [0, 1, 1], r"crow\[2\] = 1 is below"),  # its counts, negative ones taken as 0, add up to 3
        ([0, 1, 2, 3], [0, 9, 1], r"Entry 1 \(row 1\) is in column 9, outside \[0, 3\)"),
    ],
)
def test_a_csc_tensor_is_checked_before_it_is_turned(ccol, row, message):
    T = torch.sparse_csc_tensor(torch.tensor(ccol), torch.tensor(row), torch.ones(3), (3, 3), check_invariants=False)
    with pytest.raises(sps.PatternError, match=rf"CSC tensor's columns, read as rows of its transpose: {message}"):
        sps.SparseMatrix.from_torch(T)


def test_unchecked_coo_is_refused():
    """Coalesced in name; torch's own `coalesce` of such a tensor writes outside its memory before anything here sees it."""
    for index in ([[0, 1, 5], [0, 1, 1]], [[-1, 0, 1], [0, 0, 1]], [[0, 1, 1], [0, 1, 7]]):
        T = torch.sparse_coo_tensor(
            torch.tensor(index), torch.ones(3), (2, 2), is_coalesced=True, check_invariants=False
        )
        with pytest.raises(sps.PatternError):
            sps.solve(T, torch.ones(2))


def test_uncoalesced_coo_with_wrong_indices_is_refused():
    for index, place in (([[0, 9], [0, 1]], "row 9"), ([[0, 1], [0, -10]], "column -10")):
        T = torch.sparse_coo_tensor(torch.tensor(index), torch.ones(2), (2, 2), check_invariants=False)
        with pytest.raises(sps.PatternError, match=f"Entry 1 is in {place}, outside"):
            sps.SparseMatrix.from_torch(T)


def test_coo_called_coalesced_in_any_order():
    index, shape = torch.tensor([[2, 0, 2, 1, 0], [0, 1, 0, 2, 0]]), (3, 3)
    values = torch.arange(1.0, 6.0, dtype=F64)
    expected = torch.zeros(3, 3, dtype=F64).index_put(tuple(index), values, accumulate=True)
    x = torch.tensor([1.0, 2.0, 3.0], dtype=F64)

    def product(v):
        T = torch.sparse_coo_tensor(index, v, shape, is_coalesced=True)
        return sps.SparseMatrix.from_torch(T) @ x

    torch.testing.assert_close(product(values), expected @ x)
    leaf = values.clone().requires_grad_()
    product(leaf)[2].backward()
    assert leaf.grad.tolist() == [1.0, 0.0, 1.0, 0.0, 0.0]
    T = torch.sparse_coo_tensor(index, values, shape, is_coalesced=True).requires_grad_()
    (sps.SparseMatrix.from_torch(T) @ x)[2].backward()
    assert T.grad.to_dense()[2].tolist() == [1.0, 0.0, 0.0]


def test_batched_patterns_say_what_to_do():
    values, pattern = SYSTEMS["banded"](F64)
    cols, vs = pattern.col.expand(3, -1).clone(), values.expand(3, -1)
    build = lambda v, col: sps.solve(sps.SparseMatrix(v, sps.Pattern(pattern.crow, col, pattern.shape)), v[:20])  # noqa: E731
    for f in (
        build,
        lambda v, col: sps.solve(
            sps.SparseMatrix(v, sps.Pattern.__reduce__(pattern)[0](pattern.crow, col, (20, 20))), v[:20]
        ),
    ):
        with pytest.raises(sps.PatternError, match=r"batched by vmap.*in_dims.*block-diagonal"):
            torch.vmap(f)(vs, cols)
    csr = lambda v, col: torch.ops.sparsolve.matmul(v, pattern.crow, col, v[:20, None], 20, False)  # noqa: E731
    with pytest.raises(sps.PatternError, match=r"in_dims=None"):
        torch.vmap(csr)(vs, cols)


# ---- Pattern


@pytest.mark.parametrize("dtype", INDEX, ids=str)
def test_from_coo(dtype):
    row, col = torch.tensor([2, 0, 2, 0], dtype=dtype), torch.tensor([1, 2, 1, 0], dtype=dtype)
    pattern, order = sps.Pattern.from_coo(row, col, (3, 4))
    assert pattern.crow.tolist() == [0, 2, 2, 4]
    assert pattern.crow.dtype == pattern.col.dtype == dtype
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    expected = torch.zeros(3, 4).index_put((row.long(), col.long()), values, accumulate=True)
    assert torch.equal(sps.SparseMatrix(values[order], pattern).to_dense(), expected)


@pytest.mark.parametrize(
    ("row", "col", "message"),
    [
        (torch.tensor([0, 1]), torch.tensor([0]), r"row has shape \(2,\) and col \(1,\)"),
        (torch.tensor([[0]]), torch.tensor([[0]]), r"row has shape \(1, 1\); it must be one-dimensional"),
        (torch.tensor([0.0]), torch.tensor([0]), r"row is torch.float32"),
        (torch.tensor([-1]), torch.tensor([0]), r"Entry 0 is in row -1, outside \[0, 2\)"),
        (torch.tensor([0, 3]), torch.tensor([0, 0]), r"Entry 1 is in row 3, outside \[0, 2\)"),
        (torch.tensor([0]), torch.tensor([2]), r"Entry 0 is in column 2"),
        ([0], torch.tensor([0]), r"row is a list"),
        (torch.tensor([0]), np.array([0]), r"col is a ndarray.*torch.as_tensor"),
    ],
)
def test_from_coo_refuses(row, col, message):
    with pytest.raises(sps.PatternError, match=message):
        sps.Pattern.from_coo(row, col, (2, 2))


def test_int32_indices_of_a_shape_that_they_cannot_count_to():
    index = torch.zeros(1, dtype=torch.int32)
    crow = torch.tensor([0, 1], dtype=torch.int32)
    for wrong in (lambda n: sps.Pattern(crow, index, (1, n)), lambda n: sps.Pattern.from_coo(index, index, (1, n))):
        with pytest.raises(sps.PatternError, match=r"torch.int32 indices end at 2147483647"):
            wrong(2**40)
        wrong(2**31 - 1)
    assert sps.Pattern(crow.long(), index.long(), (1, 2**40)).shape == (1, 2**40)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_as_they_are_found_on_a_device(index):
    """The same as on the CPU; of pointers that are wrong, rows in range, since torch's own function would end the process's use of CUDA."""
    for counts in ([2, 0, 1], [0, 3, 0, 0], [0, 0], [5], []):
        crow = torch.tensor([0, *counts]).cumsum(0).to(index)
        nnz = sum(counts)
        found = indices._rows_by_search(crow, nnz)
        assert (found.dtype, found.tolist()) == (index, indices.rows(crow, nnz).tolist())
    for crow in ([0, 5, 2, 9], [3, 1, 0, 0], [-1, -7, 2, 2], [0, 0, 0, 0]):
        found = indices._rows_by_search(torch.tensor(crow, dtype=index), 6)
        assert found.shape == (6,)
        assert ((found >= 0) & (found < 3)).all()
        with pytest.raises(RuntimeError):
            indices.rows(torch.tensor(crow, dtype=index), 6)


def test_from_coo_looks_at_the_entries_once(monkeypatch):
    monkeypatch.setattr(pattern_module, "check_entries", lambda *_: pytest.fail("they have been checked"))
    pattern, _ = sps.Pattern.from_coo(torch.tensor([1, 0]), torch.tensor([0, 1]), (2, 2))
    assert pattern.crow.tolist() == [0, 1, 2]


@pytest.mark.parametrize("shape", [3, (3,), None, (3, 3, 7), (3.0, 3.0), "33", (-1, 3)], ids=str)
def test_shapes_are_two_whole_numbers(shape):
    crow, index = torch.tensor([0, 1, 2, 3]), torch.arange(3)
    with pytest.raises(sps.PatternError, match="shape is"):
        sps.Pattern(crow, index, shape)
    with pytest.raises(sps.PatternError, match="shape is"):
        sps.Pattern.from_coo(index, index, shape)


def test_shapes_of_numpy_numbers_become_ints():
    pattern = sps.Pattern(torch.tensor([0, 1]), torch.tensor([0]), np.array([1, 2]))
    assert pattern.shape == (1, 2)
    assert [type(s) for s in pattern.shape] == [int, int]


def test_sparse_index_tensors_are_refused():
    with pytest.raises(sps.PatternError, match=r"crow is a torch.sparse_coo tensor.*to_dense"):
        sps.Pattern(torch.tensor([0, 1]).to_sparse(), torch.tensor([0]), (1, 1))


def test_pointers_that_overflow_when_subtracted_are_refused():
    crow = torch.tensor([0, 2**31 - 1, -5, 3], dtype=torch.int32)
    with pytest.raises(sps.PatternError, match=r"crow\[2\] = -5 is below"):
        sps.Pattern(crow, torch.zeros(3, dtype=torch.int32), (3, 3))


def test_patterns_without_numbers_are_not_checked():
    crow, col = (torch.tensor(a, device="meta") for a in ([0, 1, 2], [0, 1]))
    assert sps.Pattern(crow, col, (2, 2)).device.type == "meta"
    assert sps.Pattern.from_coo(col, col, (2, 2))[0].crow.shape == (3,)


@pytest.mark.parametrize("where", [torch.float32, None, torch.ones(1)], ids=str)
def test_patterns_move_to_devices_only(where):
    pattern = pattern_of([0, 1], [0], (1, 1))
    with pytest.raises(TypeError, match="device is"):
        pattern.to(where)


def test_rows():
    pattern = pattern_of([0, 2, 2, 3], [1, 0, 2], (3, 3), torch.int32)
    assert pattern.rows().tolist() == [0, 0, 2]
    assert pattern.rows().dtype is torch.int32


@pytest.mark.parametrize("name", SYSTEMS)
def test_adjoint(name):
    values, pattern = SYSTEMS[name](C128)
    adjoint, order = pattern.adjoint()
    sps.Pattern(adjoint.crow, adjoint.col, adjoint.shape)  # raises if it is not one
    assert torch.equal(oracle.dense(values[order].conj(), adjoint), oracle.dense(values, pattern).mH)


def test_adjoint_keeps_nothing_of_a_transform():
    values, pattern = SYSTEMS["banded"](F64)
    b = torch.ones(20, dtype=F64)
    total = lambda v: sps.solve(sps.SparseMatrix(v, pattern).mH, b).sum()  # noqa: E731
    for _ in range(2):
        torch.func.hessian(total)(values)
    make_fx(total, tracing_mode="fake", _allow_non_fake_inputs=True)(values)
    with torch.inference_mode():
        total(values)
    leaf = values.clone().requires_grad_()
    x = total(leaf)
    x.backward()
    assert type(x) is torch.Tensor
    assert torch.equal(leaf.grad, torch.func.grad(total)(values))


def test_adjoint_of_a_rectangle():
    pattern = pattern_of([0, 2, 3], [2, 0, 1], (2, 4))
    adjoint, order = pattern.adjoint()
    assert adjoint == pattern_of([0, 1, 2, 3, 3], [0, 1, 0], (4, 2))
    assert order.tolist() == [1, 2, 0]


def test_equality_and_hash():
    a, same = (pattern_of([0, 1, 2], [0, 1], (2, 2)) for _ in range(2))
    assert a == same
    assert hash(a) == hash(same)
    assert a != pattern_of([0, 1, 2], [1, 0], (2, 2))
    assert a != pattern_of([0, 2, 2], [0, 1], (2, 2))
    assert a != pattern_of([0, 1, 2], [0, 1], (2, 3))
    assert a != "pattern"
    assert len({a, same}) == 1


@pytest.mark.parametrize("again", [copy.deepcopy, copy.copy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies(again):
    values, pattern = SYSTEMS["unsorted"](F64)
    assert again(pattern) == pattern
    A = again(sps.SparseMatrix(values, pattern))
    assert A.pattern == pattern
    assert torch.equal(A.values, values)


def test_deepcopy_has_its_own_memory():
    values, pattern = SYSTEMS["banded"](F64)
    A = copy.deepcopy(sps.SparseMatrix(values, pattern))
    assert A.values.data_ptr() != values.data_ptr()
    assert A.pattern.col.data_ptr() != pattern.col.data_ptr()


def test_to_device_keeps_the_entries():
    pattern = pattern_of([0, 1, 2], [0, 1], (2, 2))
    assert pattern.to("cpu") == pattern
    assert pattern.to("meta").device.type == "meta"
    assert pattern.to("meta") != pattern


def test_without_numbers_only_itself_is_equal():
    """On the meta device torch cannot compare; a sum then keeps the entries of both."""
    meta = pattern_of([0, 1, 2], [0, 1], (2, 2)).to("meta")
    assert meta == meta
    assert meta != sps.Pattern(meta.crow, meta.col.clone(), (2, 2))
    a = torch.ones(2, device="meta")
    assert (sps.SparseMatrix(a, meta) + sps.SparseMatrix(a, sps.Pattern(meta.crow, meta.col.clone(), (2, 2)))).nnz == 4


def test_reprs():
    values, pattern = SYSTEMS["banded"](F64)
    pattern = with_indices(pattern, torch.int32)
    text = f"20 x 20, nnz={pattern.nnz}"
    assert repr(pattern) == f"Pattern({text}, torch.int32, cpu)"
    assert repr(sps.SparseMatrix(values, pattern)) == f"SparseMatrix({text}, torch.float64, cpu)"
    batch = values.expand(2, 3, -1).clone().requires_grad_()
    assert (
        repr(sps.SparseMatrix(batch, pattern))
        == f"SparseMatrix(batch 2 x 3, {text}, torch.float64, cpu, requires_grad)"
    )
    assert repr(sps.SparseMatrix(0, pattern)) == f"SparseMatrix(0, {pattern!r})"


# ---- SparseMatrix as a pytree


@pytest.mark.parametrize("leaf", [torch.ones(5), 0, None, "anything"])
def test_pytree_round_trips_without_a_check(leaf):
    pattern = pattern_of([0, 1, 2], [0, 1], (2, 2))
    A = sps.SparseMatrix(leaf, pattern)
    for tree in (torch_pytree, optree):
        none = {"none_is_leaf": True} if tree is optree else {}
        leaves, structure = tree.tree_flatten({"A": [A]}, **none)
        assert len(leaves) == 1
        assert leaves[0] is leaf
        back = (
            optree.tree_unflatten(structure, leaves)
            if tree is optree
            else torch_pytree.tree_unflatten(leaves, structure)
        )
        assert back["A"][0].values is leaf
        assert back["A"][0].pattern is pattern


def test_structures_are_equal_for_equal_patterns_only():
    a, same = (sps.SparseMatrix(torch.ones(2), pattern_of([0, 1, 2], [0, 1], (2, 2))) for _ in range(2))
    other = sps.SparseMatrix(torch.ones(2), pattern_of([0, 1, 2], [1, 0], (2, 2)))
    for structure in (torch_pytree.tree_structure, optree.tree_structure):
        assert structure(a) == structure(same)
        assert structure(a) != structure(other)


def test_in_dims():
    values, pattern = SYSTEMS["banded"](F64)
    A = sps.SparseMatrix(torch.stack([values, 2 * values], 1), pattern)
    b = torch.randn(2, 20, dtype=F64)
    x = torch.vmap(sps.solve, in_dims=(sps.SparseMatrix(1, pattern), 0))(A, b)
    expected = torch.stack([oracle.solve(values, pattern, b[0]), oracle.solve(2 * values, pattern, b[1])])
    torch.testing.assert_close(x, expected)


def test_schema_of_the_pattern_round_trips():
    """What `torch.export` writes."""
    A = sps.SparseMatrix(torch.ones(2), pattern_of([0, 1, 2], [0, 1], (2, 2), torch.int32))
    text = torch_pytree.treespec_dumps(torch_pytree.tree_structure(A))
    with torch.device("meta"):
        spec = torch_pytree.treespec_loads(text)
    pattern = torch_pytree.tree_unflatten([A.values], spec).pattern
    assert pattern == A.pattern
    assert pattern.col.dtype is torch.int32


def test_leaf_has_a_path():
    A = sps.SparseMatrix(torch.ones(2), pattern_of([0, 1, 2], [0, 1], (2, 2)))
    (path, leaf), *rest = torch_pytree.tree_flatten_with_path({"A": A})[0]
    assert (torch_pytree.keystr(path), leaf, rest) == ("['A'].values", A.values, [])


@pytest.mark.parametrize("batch", [(), (3,)])
def test_a_saved_matrix_is_loaded_by_default(batch, tmp_path):
    """`torch.load` reads arrays only, unless it is told otherwise; these are arrays."""
    A = sps.SparseMatrix(torch.randn(*batch, 2), pattern_of([0, 1, 2], [0, 1], (2, 2)))
    torch.save({"A": A}, tmp_path / "A.pt")
    again = torch.load(tmp_path / "A.pt")["A"]
    assert torch.equal(again.values, A.values)
    assert again.pattern == A.pattern


# ---- conversions


@pytest.mark.parametrize("name", ["saddle point", "stored zeros", "permuted", "circuit"])
@pytest.mark.parametrize("layout", ["sparse_coo", "sparse_csr", "sparse_csc"])
def test_from_torch(layout, name):
    values, pattern = SYSTEMS[name](C128)
    D = oracle.dense(values, pattern)
    A = sps.SparseMatrix.from_torch(D.to_sparse(layout=getattr(torch, layout)))
    assert torch.equal(A.to_dense(), D)


@pytest.mark.parametrize("index", INDEX, ids=str)
@pytest.mark.parametrize("layout", ["csr", "csc"])
def test_from_torch_keeps_index_dtype_and_stored_zeros(layout, index):
    make = torch.sparse_csr_tensor if layout == "csr" else torch.sparse_csc_tensor
    T = make(
        torch.tensor([0, 2, 3], dtype=index),
        torch.tensor([0, 1, 1], dtype=index),
        torch.tensor([1.0, 0, 2]),
        (2, 2),
        check_invariants=True,
    )
    A = sps.SparseMatrix.from_torch(T)
    assert A.nnz == 3
    assert A.pattern.col.dtype is A.pattern.crow.dtype is index
    assert torch.equal(A.to_dense(), T.to_dense())


def test_from_torch_shares_csr_indices():
    T = torch.eye(3).to_sparse_csr()
    assert sps.SparseMatrix.from_torch(T).pattern.col.data_ptr() == T.col_indices().data_ptr()


def test_from_torch_refuses():
    for wrong, message in (
        (torch.eye(2), "torch.strided"),
        ([[1.0]], "a list"),
        (torch.eye(4).to_sparse_bsr((2, 2)), "torch.sparse_bsr"),
        (torch.ones(2, 2, 3).to_sparse(2), r"shape \(2, 2, 3\) with 1 dense dimensions"),
        (torch.ones(3).to_sparse(), r"shape \(3,\)"),
    ):
        with pytest.raises(TypeError, match=message):
            sps.SparseMatrix.from_torch(wrong)


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo], ids=str)
@pytest.mark.parametrize("name", ["duplicates", "unsorted", "stored zeros"])
def test_to_torch(name, layout, dtype):
    values, pattern = SYSTEMS[name](dtype)
    values.requires_grad_()
    T = sps.SparseMatrix(values, pattern).to_torch(layout)
    assert T.layout is layout
    D = oracle.dense(values, pattern)
    torch.testing.assert_close(T.to_dense(), D)
    g = torch.randn_like(D)
    got, expected = (torch.autograd.grad(M, values, g)[0] for M in (T.to_dense(), D))
    torch.testing.assert_close(got, expected)
    if name == "stored zeros":
        assert T._nnz() == pattern.nnz


@pytest.mark.parametrize("index", INDEX, ids=str)
def test_to_torch_keeps_the_index_dtype(index):
    """Of a COO tensor they are int64, whatever they were."""
    values, pattern = SYSTEMS["duplicates"](F64)
    A = sps.SparseMatrix(values.requires_grad_(), with_indices(pattern, index))
    T = A.to_torch()
    assert T.crow_indices().dtype is T.col_indices().dtype is index
    assert sps.SparseMatrix.from_torch(T).pattern.col.dtype is index
    torch.testing.assert_close(T.to_dense(), A.to_dense())
    assert A.to_torch(torch.sparse_coo).indices().dtype is torch.int64
    T.to_dense().sum().backward()
    assert torch.equal(values.grad, torch.ones_like(values))


def test_to_torch_refuses():
    values, pattern = SYSTEMS["banded"](F64)
    with pytest.raises(TypeError, match=r"values have shape \(2, \d+\)"):
        sps.SparseMatrix(values.expand(2, -1), pattern).to_torch()
    with pytest.raises(TypeError, match=r"layout is torch.sparse_csc"):
        sps.SparseMatrix(values, pattern).to_torch(torch.sparse_csc)


@pytest.mark.parametrize("name", ["duplicates", "unsorted", "banded"])
def test_to_scipy_has_its_own_memory(name):
    values, pattern = SYSTEMS[name](C128)
    kept = [t.clone() for t in (values, pattern.crow, pattern.col)]
    M = sps.SparseMatrix(values.requires_grad_(), pattern).to_scipy()
    np.testing.assert_allclose(M.toarray(), oracle.dense(values, pattern).detach().numpy(), atol=1e-14)
    assert M.has_canonical_format
    M.data[:], M.indices[:] = 0, 0
    for now, before in zip((values, pattern.crow, pattern.col), kept, strict=True):
        assert torch.equal(now, before)


# ---- mH and @


@pytest.mark.parametrize("dtype", [F64, C128], ids=str)
@pytest.mark.parametrize("name", ["duplicates", "unsorted", "circuit"])
def test_mH(name, dtype):
    values, pattern = SYSTEMS[name](dtype)
    values.requires_grad_()
    A, D = sps.SparseMatrix(values, pattern), oracle.dense(values, pattern)
    torch.testing.assert_close(A.mH.to_dense(), D.mH)
    b = torch.randn(pattern.shape[0], 2, dtype=dtype)
    x, expected = sps.solve(A.mH, b), oracle.solve(values, pattern, b, adjoint=True)
    torch.testing.assert_close(x, sps.solve(A, b, adjoint=True))
    g = torch.randn_like(b)
    for y in (x, sps.solve(A, b, adjoint=True)):
        got, wanted = (torch.autograd.grad(z, values, g, retain_graph=True)[0] for z in (y, expected))
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-6 * wanted.abs().max().item())


def test_mH_of_a_batch_and_of_a_rectangle():
    values, pattern = SYSTEMS["banded"](C128)
    batch = torch.stack([values, 1j * values])
    assert torch.equal(sps.SparseMatrix(batch, pattern).mH.to_dense(), oracle.dense(batch, pattern).mH)
    A = sps.SparseMatrix(torch.tensor([1.0, 2.0, 3.0]), pattern_of([0, 2, 3], [2, 0, 1], (2, 4)))
    assert A.mH.shape == (4, 2)
    assert torch.equal(A.mH.to_dense(), A.to_dense().mH)


@pytest.mark.parametrize("shape", [(4,), (4, 3), (2, 4, 3)])
def test_matmul_of_a_rectangle(shape):
    A = sps.SparseMatrix(torch.tensor([1.0, 2.0, 3.0], dtype=F64), pattern_of([0, 2, 3], [2, 0, 1], (2, 4)))
    x = torch.randn(shape, dtype=F64)
    torch.testing.assert_close(A @ x, A.to_dense() @ x)
    y = torch.randn(*shape[:-2], 2, *shape[-1:], dtype=F64) if len(shape) > 1 else torch.randn(2, dtype=F64)
    torch.testing.assert_close(sps.matmul(A, y, adjoint=True), A.to_dense().mH @ y)
    assert (A @ x).is_contiguous()


def test_matmul_refuses():
    A = sps.SparseMatrix(torch.ones(3), pattern_of([0, 2, 3], [2, 0, 1], (2, 4)))
    with pytest.raises(TypeError):
        A @ 3
    with pytest.raises(ValueError, match=r"with A of shape \(2, 4\) it must be \(4,\)"):
        A @ torch.ones(2)


def test_batch_to_dense():
    _, pattern = SYSTEMS["duplicates"](F64)
    batch = torch.randn(2, 3, pattern.nnz, dtype=F64)
    torch.testing.assert_close(sps.SparseMatrix(batch, pattern).to_dense(), oracle.dense(batch, pattern))
