"""Solves with an `Operator`: derivatives against dense `inv(A) @ b` under the transforms, what is captured, what is refused."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import optree
import pytest
import torch
import torch.utils._pytree as torch_pytree
from torch import Tensor
from torch.func import grad, hessian, jvp, vmap
from torch.utils.checkpoint import checkpoint

import sparsolve as sps
from sparsolve import operators
from sparsolve.levels import is_followed
from transforms import COMPOSITIONS, EAGER_ONLY, tensors

N = 5
TIGHT = {"rtol": 1e-13, "maxiter": 500}
SOLVERS = {
    "gmres": sps.GMRES(**TIGHT),
    "bicgstab": sps.BiCGStab(**TIGHT),
    "cg": sps.CG(**TIGHT),
    "minres": sps.MINRES(**TIGHT),
}
both_dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)


def banded(params: Any, x: Tensor) -> Tensor:
    """A diagonal and two different bands; nonlinear in the params."""
    d, (up, down) = params["d"], params["bands"]
    return d * x + up.sin() * torch.roll(x, -1) - (down * down) * torch.roll(x, 1)


def hermitian(params: Any, x: Tensor) -> Tensor:
    """`(|d|² + L Lᴴ) x` with `L x = up x + S x`, S a cyclic shift: Hermitian positive definite."""
    d, (up, _) = params["d"], params["bands"]
    y = up.conj() * x + torch.roll(x, -1)
    return (d * d.conj()).real * x + up * y + torch.roll(y, 1)


def dense(function: Any, params: Any, dtype: torch.dtype) -> Tensor:
    """Column by column."""
    eye = torch.eye(N, dtype=dtype)
    return torch.stack([function(params, eye[:, j]) for j in range(N)], dim=1)


def case(name: str, dtype: torch.dtype, adjoint: bool) -> tuple[Any, Any, Any]:
    function = hermitian if name in ("cg", "minres") else banded
    torch.manual_seed(4)
    base = {
        "d": 4 + torch.randn(N, dtype=dtype),
        "bands": (torch.randn(N, dtype=dtype), 0.5 * torch.randn(1, dtype=dtype)),
    }
    b = torch.randn(N, 2, dtype=dtype)

    def moved(s: Tensor, t: Tensor) -> Any:
        by = torch.complex(s, s.flip(0)) if dtype.is_complex else s
        params = {
            "d": base["d"] + by[0] * by[1].sin(),
            "bands": (base["bands"][0] + by[:N], base["bands"][1] * (1 + by[2])),
        }
        return params, b + (torch.complex(t, t.flip(0)) if dtype.is_complex else t)

    def real(x: Tensor) -> Tensor:
        return torch.view_as_real(x) if x.is_complex() else x

    def f(s: Tensor, t: Tensor) -> Tensor:
        params, right = moved(s, t)
        return real(sps.solve(sps.Operator(function, params), right, SOLVERS[name], adjoint=adjoint))

    def g(s: Tensor, t: Tensor) -> Tensor:
        params, right = moved(s, t)
        A = dense(function, params, dtype)
        return real(torch.linalg.inv(A.mH if adjoint else A) @ right)

    s, t = 0.1 * torch.randn(N).double(), 0.1 * torch.randn(b.shape).double()
    return f, g, tensors(s, t, g(s, t))


def test_the_hermitian_one_is() -> None:
    torch.manual_seed(4)
    for dtype in (torch.float64, torch.complex128):
        params = {"d": 4 + torch.randn(N, dtype=dtype), "bands": (torch.randn(N, dtype=dtype), None)}
        A = dense(hermitian, params, dtype)
        torch.testing.assert_close(A, A.mH)
        assert torch.linalg.eigvalsh(A).min() > 0


@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node")  # torch.func.linearize, of dense code too
@both_dtypes
@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
@pytest.mark.parametrize("transform", [*COMPOSITIONS, *EAGER_ONLY])
def test_all_transforms(transform: str, adjoint: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if transform == "linearize":  # torch traces it with whatever is in memory as tangents; that converges to nothing
        monkeypatch.setattr(Tensor, "new_empty", Tensor.new_zeros)
    f, g, T = case("gmres", dtype, adjoint)
    run = (COMPOSITIONS | EAGER_ONLY)[transform]
    torch.testing.assert_close(run(f, T), run(g, T), rtol=1e-8, atol=1e-8)


@both_dtypes
@pytest.mark.parametrize("transform", ["value", "grad_both", "jvp_both", "vjp_of_jvp", "vmap_hvp", "vmap_b"])
@pytest.mark.parametrize("name", ["cg", "minres", "bicgstab"])
def test_other_methods(name: str, transform: str, dtype: torch.dtype) -> None:
    f, g, T = case(name, dtype, False)
    torch.testing.assert_close(COMPOSITIONS[transform](f, T), COMPOSITIONS[transform](g, T), rtol=1e-8, atol=1e-8)


# ---- plain autograd

D, B = 4 + torch.arange(5.0).double(), torch.linspace(-1, 1, 5).double()


def ring(d: Tensor, x: Tensor) -> Tensor:
    return d * x - torch.roll(x, -1) - 0.5 * torch.roll(x, 1)


def ring_solve(d: Tensor, b: Tensor, **options: Any) -> Tensor:
    return sps.solve(sps.Operator(ring, d), b, SOLVERS["gmres"], **options)


def test_backward_and_double_backward() -> None:
    d, b = D.clone().requires_grad_(), B.clone().requires_grad_()
    every = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(ring_solve, (d, b), **every)
    assert torch.autograd.gradgradcheck(ring_solve, (d, b), check_fwd_over_rev=True, check_batched_grad=True)


def test_forward_ad_with_a_graph() -> None:
    """`torch.autograd.forward_ad`, and a gradient of its tangent."""
    d = D.clone().requires_grad_()
    A = lambda d: torch.linalg.inv(dense(ring, d, D.dtype)) @ B  # noqa: E731
    found = []
    for f in (lambda d: ring_solve(d, B), A):
        with torch.autograd.forward_ad.dual_level():
            x = f(torch.autograd.forward_ad.make_dual(d, torch.ones_like(d)))
            tangent = torch.autograd.forward_ad.unpack_dual(x).tangent
            found.append((tangent, torch.autograd.grad(tangent.sum(), d)[0]))
    torch.testing.assert_close(*found)


def test_opcheck() -> None:
    from sparsolve.operators import form_of
    from sparsolve.tickets import ticket

    form, theta = form_of(sps.Operator(ring, D.clone().requires_grad_()), B)
    for report in (False, True):
        args = (theta, B[:, None].clone().requires_grad_(), ticket(form), "GMRES()", False, report)
        tests = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(torch.ops.sparsolve.solve_operator.default, args, test_utils=tests)


# ---- an operator as an argument


def test_it_is_a_pytree_of_both_kinds() -> None:
    A = sps.Operator(ring, {"a": D, "b": [B, 2 * B]})
    for leaves, spec, unflatten in (
        (*optree.tree_flatten(A), lambda s, leaves: optree.tree_unflatten(s, leaves)),
        (*torch_pytree.tree_flatten(A), lambda s, leaves: torch_pytree.tree_unflatten(leaves, s)),
    ):
        assert len(leaves) == 3
        again = unflatten(spec, leaves)
        assert isinstance(again, sps.Operator)
        assert again.function is ring
        assert again.params["b"][1] is A.params["b"][1]
    assert "ring" in repr(A)


def test_gradients_and_vmap_of_the_operator_itself() -> None:
    f = lambda A, b: sps.solve(A, b, SOLVERS["gmres"])  # noqa: E731
    expected = grad(lambda d: (torch.linalg.inv(dense(ring, d, D.dtype)) @ B).sum())(D)
    torch.testing.assert_close(grad(lambda A: f(A, B).sum())(sps.Operator(ring, D)).params, expected)
    many = torch.stack([D, D + 1])
    found = vmap(f, (sps.Operator(ring, 0), None))(sps.Operator(ring, many), B)
    torch.testing.assert_close(found, torch.stack([f(sps.Operator(ring, d), B) for d in many]))


def test_products() -> None:
    A, M = sps.Operator(ring, D), dense(ring, D, D.dtype)
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    torch.testing.assert_close(sps.matmul(A, x), M @ x)
    torch.testing.assert_close(sps.matmul(A, x, adjoint=True), M.mH @ x)
    torch.testing.assert_close(A @ x[0], M @ x[0])
    torch.testing.assert_close(A @ x[0, :, 0], M @ x[0, :, 0])


@pytest.mark.parametrize("shape", [(5,), (5, 3), (2, 5, 3), (2, 1, 5, 0), (5, 0)])
def test_shapes_and_info(shape: tuple[int, ...]) -> None:
    A, M, b = sps.Operator(ring, D), dense(ring, D, D.dtype), torch.randn(shape, dtype=torch.float64)
    x, info = sps.solve_with_info(A, b, SOLVERS["gmres"])
    torch.testing.assert_close(x, torch.linalg.inv(M) @ b)
    assert x.is_contiguous()
    columns = shape[:-2] + shape[-1:] if len(shape) > 1 else ()
    assert info.status.shape == info.iterations.shape == info.residual.shape == columns
    assert (info.residual <= 1e-13).all()
    assert (info.iterations <= 5).all()
    again = sps.solve_with_info(A, {"b": b}, SOLVERS["gmres"], x0={"b": x})
    assert (again.info["b"].iterations <= 1).all()
    torch.testing.assert_close(again.x["b"], x)


@pytest.mark.parametrize(
    ("params", "right", "result"),
    [
        (torch.float64, torch.complex128, torch.complex128),
        (torch.complex128, torch.float64, torch.complex128),
        (torch.float32, torch.float64, torch.float64),
        (torch.float32, torch.float32, torch.float32),
    ],
)
def test_dtypes(params: torch.dtype, right: torch.dtype, result: torch.dtype) -> None:
    d, b = D.to(params), B.to(right)
    d = d * 1j if params.is_complex else d
    x = sps.solve(sps.Operator(ring, d), b, sps.GMRES())
    assert x.dtype == result
    torch.testing.assert_close(
        x, torch.linalg.inv(dense(ring, d.to(result), result)) @ b.to(result), rtol=1e-4, atol=1e-4
    )
    gradient = grad(lambda d: sps.solve(sps.Operator(ring, d), b, sps.GMRES()).abs().sum())(d)
    expected = grad(lambda d: (torch.linalg.inv(dense(ring, d.to(result), result)) @ b.to(result)).abs().sum())(d)
    assert gradient.dtype == params
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-3)


def test_params_of_several_dtypes_and_none() -> None:
    def f(p: Any, x: Tensor) -> Tensor:
        assert [t.dtype for t in optree.tree_leaves(p)] == [torch.complex128, torch.float64]
        return p[0] * x + p[1] * torch.roll(x, 1)

    z, r = (6 + 1j) * D, B.clone()
    loss = lambda z, r: sps.solve(sps.Operator(f, (z, r)), B, SOLVERS["gmres"]).abs().sum()  # noqa: E731
    exact = lambda z, r: (torch.linalg.inv(dense(f, (z, r), z.dtype)) @ B.to(z.dtype)).abs().sum()  # noqa: E731
    torch.testing.assert_close(grad(loss, (0, 1))(z, r), grad(exact, (0, 1))(z, r))
    torch.testing.assert_close(sps.solve(sps.Operator(lambda p, x: 2 * x, ()), B, sps.CG()), B / 2)


@pytest.mark.parametrize("adjoint", [False, True])
def test_preconditioned(adjoint: bool) -> None:
    M = dense(ring, D, D.dtype)
    inverse = torch.linalg.inv(M)
    near = sps.SparseMatrix.from_torch(M.to_sparse_csr())
    A = sps.Operator(ring, D)
    by = lambda M: lambda r: M.numpy() @ r  # noqa: E731
    for preconditioner in (sps.Factored(near), sps.ApproximateInverse(by(inverse), by(inverse.mT.contiguous()))):
        x, info = sps.solve_with_info(A, B, sps.GMRES(preconditioner=preconditioner), adjoint=adjoint)
        assert info.iterations == 1
        torch.testing.assert_close(x, (inverse.mH if adjoint else inverse) @ B)


def test_nothing_of_the_users_is_modified() -> None:
    d, b, x0 = D.clone(), B.clone(), B.clone()
    ring_solve(d, b, x0=x0)
    assert torch.equal(d, D)
    assert torch.equal(b, B)
    assert torch.equal(x0, B)


# ---- what is refused


def test_captured_tensors_that_something_follows() -> None:
    """Each would have lost its derivative."""

    def captures(c: Tensor) -> Tensor:
        return sps.solve(sps.Operator(lambda _, x: c * x, ()), B, sps.CG()).sum()

    inner = lambda c: grad(lambda t: captures(c) * t)(torch.ones((), dtype=c.dtype))  # noqa: E731
    for attempt in (
        lambda: captures(D.clone().requires_grad_()),
        lambda: grad(captures)(D),
        lambda: jvp(captures, (D,), (D,)),
        lambda: vmap(captures)(torch.stack([D, D])),
        lambda: grad(inner)(D),
        lambda: jvp(inner, (D,), (D,)),
        lambda: vmap(inner)(torch.stack([D, D])),
        lambda: grad(lambda c: vmap(lambda t: captures(c) * t)(torch.ones(2).double()).sum())(D),
        lambda: hessian(captures)(D),
    ):
        with pytest.raises(TypeError, match="not in its params"):
            attempt()
    with torch.autograd.forward_ad.dual_level(), pytest.raises(TypeError, match="not in its params"):
        captures(torch.autograd.forward_ad.make_dual(D, D))
    constant = (B / D).sum()
    torch.testing.assert_close(captures(D), constant)
    torch.testing.assert_close(grad(lambda c: captures(c.detach()) * c[0])(D)[0], constant)
    torch.testing.assert_close(vmap(lambda t: captures(D) * t)(torch.ones(2).double()), constant.expand(2))
    with torch.no_grad():
        torch.testing.assert_close(captures(D.clone().requires_grad_()), constant)


def chain(p: Tensor, b: Tensor, adjoint: bool) -> Tensor:
    """Its function captures numbers and indices that are made where the call is."""
    h, i = torch.full((N,), 0.3, dtype=p.dtype), torch.arange(N).roll(1)

    def product(p: Tensor, x: Tensor) -> Tensor:
        return p * x + h * x[i] - 0.1 * h.cos() * torch.roll(x, 2)

    return sps.solve(sps.Operator(product, p), b, SOLVERS["gmres"], adjoint=adjoint)


@both_dtypes
@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
@pytest.mark.parametrize(
    "transform",
    [
        lambda f, p: grad(f)(p),
        lambda f, p: hessian(f)(p),
        lambda f, p: grad(lambda p: grad(f)(p).abs().sum())(p),
        lambda f, p: jvp(grad(f), (p,), (p.cos(),)),
        lambda f, p: jvp(lambda p: jvp(f, (p,), (p.sin(),))[1], (p,), (p.cos(),)),
        lambda f, p: vmap(grad(f))(torch.stack([p, 2 * p, 3 + p])),
        lambda f, p: grad(lambda p: vmap(f)(torch.stack([p, 2 * p])).sum())(p),
        lambda f, p: torch.func.vjp(lambda p: torch.func.vjp(f, p)[1](torch.ones_like(f(p)))[0], p)[1](p),
    ],
    ids=["grad", "hessian", "grad_grad", "jvp_grad", "jvp_jvp", "vmap_grad", "grad_vmap", "vjp_vjp"],
)
def test_captured_constants_made_inside_of_transforms(transform: Any, adjoint: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(4)
    p, b = 4 + torch.randn(N), torch.randn(N, dtype=dtype)
    h, i = torch.full((N,), 0.3, dtype=p.dtype), torch.arange(N).roll(1)
    p, h = p.double(), h.double()

    def loss(p: Tensor) -> Tensor:
        return chain(p, b, adjoint).abs().square().sum()

    def given(p: Tensor) -> Tensor:
        eye = torch.eye(N, dtype=torch.float64)
        A = torch.diag(p) + h[:, None] * eye[i] - 0.1 * h.cos()[:, None] * eye.roll(2, 0)
        x = torch.linalg.inv((A.mH if adjoint else A).to(dtype)) @ b
        return x.abs().square().sum()

    torch.testing.assert_close(transform(loss, p), transform(given, p), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints(reentrant: bool, adjoint: bool) -> None:
    p, b = (4 + torch.rand(N)).double().requires_grad_(), torch.rand(N).double()
    (expected,) = torch.autograd.grad(chain(p, b, adjoint).sum(), p)
    again = lambda p: chain(p, b, adjoint)  # noqa: E731
    checkpoint(again, p, use_reentrant=reentrant).sum().backward()
    assert p.grad is not None
    torch.testing.assert_close(p.grad, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
def test_hooks_for_saved_tensors(adjoint: bool) -> None:
    """They are in use again after a solve, in their order."""
    p, b = (4 + torch.rand(N)).double().requires_grad_(), torch.rand(N).double()
    (expected,) = torch.autograd.grad(chain(p, b, adjoint).sum(), p)
    packed: list[str] = []

    def noting(name: str) -> Any:
        return torch.autograd.graph.saved_tensors_hooks(lambda t: (packed.append(name), t)[1], lambda t: t)

    with noting("outer"):
        with noting("inner"):
            (found,) = torch.autograd.grad(chain(p, b, adjoint).sum(), p, create_graph=True)
            assert set(packed) == {"inner"}
        torch.autograd.grad(found.sum(), p)
        (p * p).sum()
        assert packed[-1] == "outer"
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_functions_are_forgotten() -> None:
    """What a function captures may be large: a graph keeps it, and nobody else does."""
    b, p = torch.rand(N).double(), (4 + torch.rand(N)).double().requires_grad_()
    known = []

    def step() -> Tensor:
        h = torch.rand(N).double()
        known.append(weakref.ref(h))
        return sps.solve(sps.Operator(lambda p, x: p * x + h.roll(1) * x.roll(1), p), b, SOLVERS["gmres"]).sum()

    graph = step()
    for _ in range(5):
        step().backward()
    gc.collect()
    assert [ref() is not None for ref in known] == [True] + 5 * [False]
    graph.backward()


def test_followed() -> None:
    assert not is_followed(D)
    assert is_followed(D.clone().requires_grad_())
    seen: list[bool] = []
    vmap(lambda t: seen.append(is_followed(t)) or t)(torch.stack([D, D]))
    vmap(lambda t: seen.append(is_followed(D.sin())) or t)(torch.stack([D, D]))
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("attempt", "error", "match"),
    [
        (lambda: sps.solve(sps.Operator(ring, D), B), TypeError, r"solver is a LU; .*no entries to factorize.*CG\(\)"),
        (lambda: sps.solve(sps.Operator(ring, D), B, sps.CG), TypeError, r"solver is the class CG; .*record of an iterative method.*Use CG\(\)"),
        (lambda: sps.solve(sps.Operator(ring, D), B, "cg"), TypeError, "solver is a str;"),
        (lambda: sps.solve(sps.Operator(ring, D), B, lambda A, b: b), TypeError, "no entries to factorize"),
        (lambda: sps.solve(sps.Operator(ring, D), B, sps.CG(preconditioner=sps.Jacobi())), TypeError, "Jacobi is made of the entries"),
        (lambda: sps.solve(sps.Operator(ring, {"d": D, "n": 3}), B, sps.CG()), TypeError, "params hold a int"),
        (lambda: sps.solve(sps.Operator(ring, torch.arange(5)), B, sps.CG()), TypeError, "params hold a tensor of torch.int64"),
        (lambda: sps.solve(sps.Operator(lambda p, x: x[:2], D), B, sps.CG()), ValueError, r"shape \(2,\) for x of shape \(5,\)"),
        (lambda: sps.solve(sps.Operator(lambda p, x: None, D), B, sps.CG()), ValueError, "a NoneType"),
        (lambda: sps.solve(sps.Operator(lambda p, x: x.half(), D), B, sps.CG()), TypeError, "float16"),
        (lambda: sps.solve(sps.Operator(ring, D), B.to_sparse(), sps.CG()), TypeError, "b must be dense"),
        (lambda: sps.Operator(ring, D) @ B.to_sparse(), TypeError, "x must be dense"),
        (lambda: sps.Operator(ring, D) @ B.numpy(), TypeError, "x must be a torch.Tensor, not a ndarray"),
        (lambda: sps.Operator(ring, D) @ B[0], ValueError, "x is a number"),
        (lambda: sps.Operator(D, ring) @ B, TypeError, "function is a Tensor"),
        (lambda: B.numpy() @ sps.Operator(ring, D), TypeError, "unsupported operand"),
        (lambda: ring_solve(D, B, x0=B.to_sparse()), TypeError, "x0 must be dense"),
        (lambda: sps.solve(sps.Operator(ring, D), B.long(), sps.CG()), TypeError, "int64"),
        (lambda: ring_solve(D, B, x0=B[:2]), ValueError, "x0 is"),
        (lambda: ring_solve(D, B, x0=B + 0j), ValueError, "x0 is complex"),
        (lambda: ring_solve(D / 0, B), sps.SolveError, "params"),
        (lambda: sps.solve(sps.Operator(lambda W, x: W @ x, torch.eye(5)), B, sps.CG()), TypeError, r"failed for x of torch.float64.*x comes in the dtype of b.*torch.float32"),
        (lambda: sps.solve(sps.Operator(lambda d, x: d[:3] @ x, D), B, sps.CG()), RuntimeError, "inconsistent tensor size"),
        (lambda: ring_solve(D, B / 0), sps.SolveError, "b"),
        (lambda: torch.compile(ring_solve, fullgraph=True, backend="eager")(D, B), Exception, "inside of compiled code"),
    ],
)  # fmt: skip
def test_refusals(attempt: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        attempt()


@pytest.mark.parametrize(
    ("function", "cause"),
    [
        (lambda d, x: 9 * x + 1e-3, r"a vector of norm 0.0022: a source or boundary values.*Subtract function\(params, 0\)"),
        (lambda d, x: 9 * x + 1e-3 * x * x, r"f\(-2 x\) is not -2 f\(x\).*A nonlinear term, or random numbers.*torch.func.jvp"),
        (lambda d, x: 9 * x + 1e-3 * x * x * x, "A nonlinear term"),
        (lambda d, x: 9 * x + 1e-3 * x.abs(), "A nonlinear term"),
        (lambda d, x: 9 * x + 1e-3 * x.relu(), "A nonlinear term"),
        (lambda d, x: 9 * x + 1e-3 * torch.randn(5), "A source|boundary"),
        (lambda d, x: 9 * x + torch.nn.functional.dropout(x), "random numbers"),
        (lambda d, x: (9 + 1j) * x + 1e-3 * x.conj(), r"f\(-2i x\) is not -2i f\(x\).*A conjugate"),
        (lambda d, x: (9 + 1j) * x + 1e-3 * x.abs(), "A conjugate"),
    ],
    ids=["affine", "square", "cube", "abs", "relu", "noise", "dropout", "conjugate", "complex abs"],
)  # fmt: skip
def test_what_is_not_linear(function: Any, cause: str) -> None:
    """Derivatives of such a solve, which an iteration may well complete, would be wrong."""
    A = sps.Operator(function, D)
    with pytest.raises(ValueError, match=rf"function f is not linear in x.*({cause})"):
        sps.solve(A, B, sps.GMRES())
    with pytest.raises(ValueError, match="function f is not linear in x"):
        torch.func.jvp(lambda b: sps.solve(A, torch.stack([b, b], 1), sps.GMRES(), adjoint=True), (B,), (B,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rounding_is_linear(dtype: torch.dtype, scale: float) -> None:
    """Sums of large numbers that cancel, and products in single precision."""
    W = torch.randn(300, 300).to(torch.complex64 if dtype.is_complex else torch.float32)

    def rough(d: Tensor, x: Tensor) -> Tensor:
        return d * scale * ((W @ x.to(W.dtype)).to(dtype) + 1e4 * (x - x.flip(0)) + x.cumsum(0))

    b = torch.ones(300, 1, dtype=dtype)
    form, theta = operators.form_of(sps.Operator(rough, torch.rand(300, dtype=dtype)), b)
    operators.require_linear(form, theta, b)


def test_derivative_solves_do_not_ask_again() -> None:
    calls = []

    def f(d: Tensor, x: Tensor) -> Tensor:
        calls.append(x)
        return d * x

    start = sps.solve(sps.Operator(f, D), B, sps.CG())
    few = len(calls)
    sps.solve(sps.Operator(f, D), B, sps.CG(), x0=start)
    assert len(calls) - few == 4  # its dtype, two for linearity, and the residual


@pytest.mark.parametrize(
    ("function", "solver", "cause"),
    [
        (lambda d, x: x + torch.roll(d * x, 1), sps.CG(), "needs a Hermitian A"),
        (lambda d, x: x * torch.tensor([1.0, -1, 1, -1, 1], dtype=x.dtype), sps.CG(), "not positive definite"),
        (
            lambda d, x: x * torch.tensor([1.0, 0, 1, 1, 1], dtype=x.dtype),
            sps.GMRES(),
            "A is singular, or nearly so, and b is not in its range",
        ),
    ],
    ids=["unsymmetric", "indefinite", "singular"],
)
def test_no_direct_solver_is_advised(function: Any, solver: Any, cause: str) -> None:
    """An operator has no entries; a matrix has, and is told of LU()."""
    with pytest.raises(sps.ConvergenceError, match=cause) as failure:
        sps.solve(sps.Operator(function, D), torch.ones_like(B), solver)
    assert "LU()" not in str(failure.value)
    A = sps.SparseMatrix.from_torch(torch.stack([function(D, e) for e in torch.eye(5).double()], dim=1).to_sparse())
    with pytest.raises(sps.ConvergenceError, match=cause) as failure:
        sps.solve(A, torch.ones_like(B), solver)
    assert ("or use LU()" in str(failure.value)) == ("singular" not in cause)  # which is of no use then


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo reads it where a broken graph goes on
def test_a_broken_graph_solves() -> None:
    """Without fullgraph the solve runs between two graphs, or a transform around it all of it eagerly."""
    loss = lambda d: ring_solve(d.cos() + 3, B).sin().sum()  # noqa: E731
    d = D.clone().requires_grad_()
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="aot_eager")
    torch.testing.assert_close(compiled(d), loss(d))
    gradient = grad(loss)(D)
    torch.testing.assert_close(torch.autograd.grad(compiled(d), d)[0], gradient)
    torch.testing.assert_close(torch.compile(grad(loss), backend="aot_eager")(D), gradient)


@pytest.mark.parametrize("columns", [(), (2,), (0,)], ids=str)
@pytest.mark.parametrize("dims", [(None, 0), (0, None), (0, 0), (None, -1)], ids=str)
def test_a_vmap_over_nothing(dims: Any, columns: tuple[int, ...]) -> None:
    def solved(d: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, info = sps.solve_with_info(sps.Operator(inner_solve, d), b, sps.GMRES())
        tangent = torch.func.jvp(lambda d: ring_solve(d, b), (d,), (d,))[1]
        return x, info.status, tangent + torch.func.grad(lambda b: ring_solve(d, b).sum())(b)

    def inner_solve(d: Tensor, x: Tensor) -> Tensor:
        """Which the probe cannot do with zeros."""
        return ring(d, x) + 0 * sps.solve(sps.SparseMatrix.from_diagonal(d), x)

    full = (D, B.reshape(-1, *(1 for _ in columns)).expand(-1, *columns))
    args = [t if d is None else t.unsqueeze(d).narrow(d, 0, 0) for t, d in zip(full, dims, strict=True)]
    theta = args[0].clone().requires_grad_()
    x, status, derivatives = torch.vmap(solved, in_dims=dims)(theta, args[1])
    assert x.shape == derivatives.shape == (0, 5, *columns)
    assert status.shape == (0, *columns)
    assert torch.equal(torch.autograd.grad(x.sum(), theta)[0], 0 * theta)


def test_failures_say_which_solve_and_which_of_a_batch() -> None:
    few = sps.GMRES(maxiter=2)
    A = lambda d: sps.Operator(ring, d)  # noqa: E731
    easy = torch.full((5,), 1e6).double()
    with pytest.raises(sps.ConvergenceError, match="batch index 1"):
        vmap(lambda d: sps.solve(A(d), B, few))(torch.stack([easy, D]))
    info = vmap(lambda d: sps.solve_with_info(A(d), B, few).info)(torch.stack([easy, D]))
    assert info.status.tolist() == [sps.Status.CONVERGED, sps.Status.MAXITER]
    x0 = ring_solve(D, B)
    start = lambda d: sps.solve(A(d), B, few, x0=x0).sum()  # noqa: E731
    with pytest.raises(sps.ConvergenceError, match="adjoint"):
        grad(start)(D)
    with pytest.raises(sps.ConvergenceError, match="for a tangent"):
        jvp(start, (D,), (D.flip(0) ** 2,))


def test_a_function_that_solves_by_its_params() -> None:
    """A Schur complement, `(I − s F K⁻¹ F) x`: params have the numbers that they have, wherever the function is called."""
    torch.manual_seed(6)
    K = torch.randn(N, N, dtype=torch.float64) + 4 * torch.eye(N)
    inner = sps.SparseMatrix.from_torch(K.to_sparse_csr())
    b = torch.randn(N, dtype=torch.float64)

    def schur(params: Any, x: Tensor) -> Tensor:
        return x - params["s"] * sps.solve(sps.SparseMatrix(params["k"], inner.pattern), x)

    def ours(k: Tensor, s: Tensor) -> Tensor:
        return sps.solve(sps.Operator(schur, {"k": k, "s": s}), b, sps.GMRES(**TIGHT))

    def expected(k: Tensor, s: Tensor) -> Tensor:
        K = torch.zeros(N, N, dtype=k.dtype).index_put((inner.pattern.rows(), inner.pattern.col), k)
        return torch.linalg.inv(torch.eye(N) - s * torch.linalg.inv(K)) @ b

    k, s = inner.values, torch.tensor(0.3, dtype=torch.float64)
    many = torch.stack([k, 2 * k]), torch.stack([s, -s])
    for transform, arguments in (
        (lambda f: f, (k, s)),
        (lambda f: torch.func.jacrev(f, (0, 1)), (k, s)),
        (lambda f: torch.func.jacfwd(f, (0, 1)), (k, s)),
        (lambda f: hessian(lambda k, s: f(k, s).sin().sum(), 1), (k, s)),
        (lambda f: vmap(vmap(f, (None, 0)), (0, None)), many),
        (lambda f: vmap(grad(lambda k, s: f(k, s).sum())), many),
    ):
        torch.testing.assert_close(transform(ours)(*arguments), transform(expected)(*arguments))


def test_autocast() -> None:
    """As for `torch.linalg`: a half right-hand side is float32 again, and the function's products are not half."""
    torch.manual_seed(7)
    K = torch.randn(N, N) + 4 * torch.eye(N)
    right = torch.randn(N, N) @ torch.randn(N)

    def total(K: Tensor, b: Tensor) -> Tensor:
        return sps.solve(sps.Operator(torch.matmul, K), b, sps.GMRES()).sum()  # mv is none of autocast's

    expected = grad(total)(K, right)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = right.bfloat16()
        assert total(K, half).dtype is torch.float32
        assert torch.equal(grad(total)(K, right), expected)
        assert torch.equal(total(K, half), total(K, half.float()))


@pytest.mark.parametrize("adjoint", [False, True])
def test_the_meta_device(adjoint: bool) -> None:
    """Shapes and dtypes without numbers, as for a matrix."""
    params, b = torch.ones(N, device="meta"), torch.ones(N, 2, device="meta", dtype=torch.float64)

    def x_of(params: Tensor) -> Tensor:
        return sps.solve(sps.Operator(torch.mul, params), b, sps.CG(), adjoint=adjoint)

    for x in (x_of(params), jvp(x_of, (params,), (params,))[1], sps.matmul(sps.Operator(torch.mul, params), b)):
        assert (x.device.type, x.shape, x.dtype) == ("meta", b.shape, b.dtype)
    assert grad(lambda p: x_of(p).sum())(params).shape == (N,)
    A = sps.SparseMatrix(params, sps.Pattern(torch.arange(N + 1), torch.arange(N), (N, N)).to("meta"))
    with pytest.raises(TypeError, match=r"b has dtype torch\.float16"):
        sps.solve(A, b.half())


@pytest.mark.parametrize("columns", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize(
    "solver", [sps.CG(), sps.MINRES(), sps.GMRES(), sps.BiCGStab(), sps.CGS()], ids=lambda s: type(s).__name__
)
def test_a_function_may_write_to_x(solver: Any, columns: tuple[int, ...]) -> None:
    """Or return it: x is a vector of its own, and no method's direction is spoilt; neither is the user's x in a product."""
    params, b = torch.linspace(1, 2, N, dtype=torch.float64), torch.randn(N, *columns, dtype=torch.float64)
    A = sps.Operator(lambda p, x: x.mul_(p), params)
    expected = b / params.view(N, *(1 for _ in columns))
    torch.testing.assert_close(sps.solve(A, b, solver), expected, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(sps.solve(A, b, solver, adjoint=True), expected, rtol=1e-8, atol=1e-8)
    x = b.clone()
    torch.testing.assert_close(A @ x, b * params.view(N, *(1 for _ in columns)))
    assert torch.equal(x, b)


def test_x0_has_no_derivative() -> None:
    x0 = torch.ones(N, dtype=torch.float64, requires_grad=True)
    A = sps.Operator(lambda p, x: 2 * x, None)
    assert not sps.solve(A, x0.detach(), sps.CG(), x0=x0).requires_grad


@pytest.mark.parametrize("adjoint", [False, True], ids=["plain", "adjoint"])
def test_a_batch_of_right_hand_sides(adjoint: bool) -> None:
    params, b = torch.linspace(1, 2, N, dtype=torch.float64), torch.randn(3, 2, N, 4, dtype=torch.float64)
    A = sps.Operator(lambda p, x: p * x + 0.2 * x.roll(1), params)
    D = dense(A.function, params, torch.float64)
    D = D.mT if adjoint else D
    x = sps.solve(A, b, sps.GMRES(**TIGHT), adjoint=adjoint)
    torch.testing.assert_close(x, torch.linalg.solve(D, b))
    found = sps.solve_with_info(A, b, sps.GMRES(**TIGHT), adjoint=adjoint, x0=x)
    torch.testing.assert_close(found.x, x)
    assert found.info.status.shape == (3, 2, 4)
    torch.testing.assert_close(sps.matmul(A, x, adjoint=adjoint), b)
    if not adjoint:
        torch.testing.assert_close(A @ x, b)
    by_batch = grad(lambda p: sps.solve(sps.Operator(A.function, p), b, sps.GMRES(**TIGHT)).sum())(params)
    by_columns = grad(
        lambda p: sps.solve(sps.Operator(A.function, p), b.movedim(-2, 0).flatten(1), sps.GMRES(**TIGHT)).sum()
    )(params)
    torch.testing.assert_close(by_batch, by_columns)
