"""The shape of the source: which file may import which, the public names, and an import that is silent and light."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparsolve as sps

SRC = Path(sps.__file__).parent
FILES = {".".join(p.relative_to(SRC).with_suffix("").parts): p for p in sorted(SRC.rglob("*.py"))}
TREES = {name: ast.parse(p.read_text(encoding="utf-8")) for name, p in FILES.items()}
each_file = pytest.mark.parametrize("name", FILES)

# From the bottom up: a file imports from those above it in this list, never from those below it.
ORDER = [
    "errors",
    "hints",
    "caching",
    "result",
    "levels",
    "indices",
    "pattern",
    "operands",
    "array_key",
    "retention",
    "memo",
    "threads",
    "tickets",
    "kept",
    "registration",
    "solvers",
    "vectors",
    "preconditioner_records",
    "given",
    "iterative",
    "loops",
    "arrays",
    "krylov_columns",
    "krylov_residual",
    "krylov",
    "backends.__init__",
    "backends.cupy_runtime",
    "convert_checks",
    "convert_cupy",
    "convert",
    "backends.structure",
    "backends.host",
    "backends.cupy_device",
    "backends.matching",
    "backends.decomposition",
    "backends.superlu_memory",
    "backends.nullspace",
    "backends.diagnosis",
    "backends.backward_error",
    "backends.conditioning",
    "backends.ordering",
    "backends.strategy",
    "backends.lowered",
    "backends.mkl",
    "backends.pardiso_handle",
    "backends.given",
    "backends.preconditioners",
    "backends.entries",
    "backends.storage",
    "backends.lapack",
    "backends.balance",
    "backends.fronts",
    "backends.selected_inverse",
    "backends.together",
    "backends.superlu",
    "backends.stopped",
    "backends.iterative",
    "backends.function",
    "backends.named",
    "backends.scipy_iterative",
    "backends.cudss_library",
    "backends.cudss_handle",
    "backends.cudss",
    "backends.cupy_lu",
    "backends.cupy_preconditioners",
    "backends.*",  # one solver each; they do not import one another
    "backends.readable",
    "backends.inverse_derivative",
    "backends.dense_determinant",
    "backends.determinant",
    "backends.cupy_determinant",
    "batch",
    "determinants",
    "ops",
    "calculus",
    "selection",
    "coordinates",
    "compressed",
    "holder",
    "arithmetic",
    "blocks",
    "products",
    "captured",
    "operators",
    "matrix_free",
    "matrix",
    "product_plan",
    "solve",
    "log_determinant",
    "trees",
    "explain",
    "c4t_arguments",
    "c4t_options",
    "c4t",
    "__init__",
    "__main__",
]
OPTIONAL = {
    "cupy",
    "cupyx",
    "pyamg",
    "pymetis",
    "matplotlib",
    "tqdm",
    "pytest",
    "hypothesis",
    "pypardiso",
    "sksparse",
    "klujax",
    "klujax_cpp",
}
REQUIRED = {"torch", "numpy", "scipy", "optree"}

# Private names of torch outside registration.py and levels.py, with what each is for.
PRIVATE = {
    "indices": {"torch._subclasses.fake_tensor.FakeTensor"},  # indices without numbers cannot be checked
    "trees": {"torch.utils._pytree"},  # torch has no public registration of pytree nodes
    # flips the negative bit; what `Tensor.__dlpack__` calls
    "backends.host": {"torch._neg_view", "torch._C", "torch._C._to_dlpack_versioned"},
    "backends.cupy_runtime": {"torch._neg_view"},
}

PUBLIC = [
    "solve",
    "solve_with_info",
    "matmul",
    "inverse_entries",
    "slogdet",
    "sparse_solve_c4t",
    "explain",
    "t2c_csr",
    "c2t_csr",
    "t2c_coo",
    "c2t_coo",
    "SparseMatrix",
    "Operator",
    "Pattern",
    "Product",
    "LU",
    "Cholesky",
    "CG",
    "MINRES",
    "GMRES",
    "BiCGStab",
    "CGS",
    "Jacobi",
    "BlockJacobi",
    "SymmetricGaussSeidel",
    "ILU",
    "AMG",
    "Factored",
    "ApproximateInverse",
    "Solution",
    "Info",
    "SLogDet",
    "Status",
    "Strategy",
    "Explanation",
    "SolveError",
    "SingularMatrixError",
    "NotPositiveDefiniteError",
    "ConvergenceError",
    "PatternError",
    "BackendUnavailableError",
    "memo_info",
    "clear_memo",
    "set_memo_limit",
    "MemoInfo",
]


# ---- imports


def imports(name: str) -> set[str]:
    """The dotted names that a file imports, at the top or inside a function; ours without the package name."""
    package = ["sparsolve", *name.split(".")][:-1]
    found: set[str] = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def own(name: str) -> set[str]:
    """Our files that a file imports."""
    dotted = {d.removeprefix("sparsolve.") for d in imports(name) if d == "sparsolve" or d.startswith("sparsolve.")}
    return {found for d in dotted if (found := _file(d)) is not None}


def _file(dotted: str) -> str | None:
    """The file that `dotted`, a module or a name in one, is in."""
    while dotted:
        for candidate in (dotted, f"{dotted}.__init__"):
            if candidate in FILES:
                return candidate
        dotted = dotted.rpartition(".")[0]
    return "__init__"


def layer(name: str) -> int:
    if name not in ORDER and name.startswith("backends."):
        return ORDER.index("backends.*")
    assert name in ORDER, f"{name} has no place in ORDER: say which files it may import"
    return ORDER.index(name)


@each_file
def test_imports_run_downward(name: str) -> None:
    upward = {other for other in own(name) if layer(other) >= layer(name)}
    assert not upward, f"{name} imports {sorted(upward)}"


def test_the_reader_of_imports_sees_them() -> None:
    assert own("solve") >= {"calculus", "matrix", "errors"}
    assert own("backends.direct") >= {"backends.host", "solvers"}
    assert "backends.__init__" in own("ops")
    assert private("registration")


@each_file
def test_only_required_packages_are_imported(name: str) -> None:
    """Optional ones have a backend of their own, or wait inside a function."""
    if name.startswith("backends."):
        pytest.skip("backends are imported when first needed")
    top = {d for node in TREES[name].body if isinstance(node, (ast.Import, ast.ImportFrom)) for d in _roots(node)}
    assert top <= REQUIRED | set(sys.stdlib_module_names)


def _roots(node: ast.Import | ast.ImportFrom) -> set[str]:
    if isinstance(node, ast.ImportFrom):
        return set() if node.level else {str(node.module).partition(".")[0]}
    return {alias.name.partition(".")[0] for alias in node.names}


def private(name: str) -> set[str]:
    """Names of torch with a part that starts with one underscore, imported or reached by attributes."""
    reached = {
        ".".join(_chain(node)) for node in ast.walk(TREES[name]) if isinstance(node, ast.Attribute) and _chain(node)
    }
    return {d for d in reached | imports(name) if d.startswith("torch.") and _has_private_part(d)}


def _chain(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute) and (before := _chain(node.value)):
        return [*before, node.attr]
    return []


def _has_private_part(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


@each_file
def test_private_names_of_torch_stay_in_two_files(name: str) -> None:
    if name not in ("registration", "levels"):
        assert private(name) == PRIVATE.get(name, set())


def taken(name: str) -> set[str]:
    """The names of a file that other files import."""
    found = {d.removeprefix("sparsolve.") for other in FILES for d in imports(other) if d.startswith("sparsolve.")}
    return {d.rpartition(".")[2] for d in found if d != name and _file(d) == name}


@each_file
def test_all_names_what_other_files_import(name: str) -> None:
    assigned = [
        n.value for n in TREES[name].body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    ]
    listed = {n for value in assigned for n in ast.literal_eval(value)}
    assert taken(name) - listed <= {"__version__", "_SOLVERS"}  # the second for the list of what solves what


# ---- size and manner


@each_file
def test_files_and_functions_are_short(name: str) -> None:
    assert len(FILES[name].read_text(encoding="utf-8").splitlines()) < 300
    functions = [n for n in ast.walk(TREES[name]) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not [f.name for f in functions if _lines(f) - _lines(f.body[0]) * bool(ast.get_docstring(f)) >= 45]


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@each_file
def test_files_say_what_they_are_and_leave_nothing_undone(name: str) -> None:
    assert ast.get_docstring(TREES[name])
    text = FILES[name].read_text(encoding="utf-8")
    assert not [word for word in ("TODO", "FIXME", "XXX", "breakpoint(", "print(") if word in _code(text)]


def _code(text: str) -> str:
    """Without the lines of examples."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith((">>>", "...")))


# ---- public names


def test_public_names() -> None:
    assert sorted(sps.__all__) == sorted(PUBLIC)
    assert all(hasattr(sps, name) for name in sps.__all__)
    assert (SRC / "py.typed").exists()


def test_no_module_is_public_by_accident() -> None:
    named = {n for n in vars(sps) if not n.startswith("_")}
    assert named - set(sps.__all__) <= {name.partition(".")[0] for name in FILES}


@pytest.mark.parametrize("name", sorted(sps.__all__))
def test_public_names_are_documented(name: str) -> None:
    thing: Any = getattr(sps, name)
    doc = inspect.getdoc(thing) or ""
    assert doc
    assert not doc.startswith(f"{name}("), "the docstring that dataclass or NamedTuple writes by itself"
    record = inspect.isclass(thing) and not issubclass(thing, (Exception, tuple))
    if record or inspect.isfunction(thing):
        assert ">>>" in doc


@pytest.mark.parametrize("field", ["rtol", "atol", "maxiter", "callback"])
def test_what_the_iterative_methods_share_is_described_alike(field: str) -> None:
    """Each docstring says it in full, for `help`."""
    docs = [inspect.getdoc(method) or "" for method in (sps.CG, sps.MINRES, sps.GMRES, sps.BiCGStab, sps.CGS)]
    found = [re.findall(rf"^ +{field}: .*?(?=^ +\w+: |^$)", doc, re.MULTILINE | re.DOTALL) for doc in docs]
    assert found == 5 * [found[0]]
    assert len(found[0]) == 1


# ---- import


def python(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, timeout=120)


def test_import_is_silent_and_light() -> None:
    """Under `-W error`; no optional package, no solver's backend, and nothing beyond what torch (its compiler included), SciPy and optree bring."""
    code = f"""
import sys, torch._dynamo, numpy, scipy.sparse.linalg, optree
before = set(sys.modules)
import sparsolve
new = set(sys.modules) - before
foreign = {{m for m in new if m.partition(".")[0] not in {{"sparsolve", "torch", "scipy", *sys.stdlib_module_names}}}}
assert not foreign, foreign
assert not (optional := {OPTIONAL!r} & new), optional
assert not (early := {{f"sparsolve.backends.{{m}}" for m in sparsolve.backends._SOLVERS.values()}} & new), early
"""
    done = python(code, "-W", "error")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    "use",
    [
        "sps.SparseMatrix(v, sps.Pattern(torch.arange(3), torch.arange(2), (2, 2))).to_torch()",
        "sps.solve(torch.eye(2).to_sparse_csr().requires_grad_(), v).sum().backward()",
    ],
    ids=["to_torch", "gradient of CSR"],
)
def test_use_is_silent(use: str) -> None:
    """Nothing that the package does warns; torch's word about the beta state of CSR tensors is the user's to hear."""
    code = f"import torch, sparsolve as sps; v = torch.ones(2); {use}"
    torch_2_11 = "ignore:Sparse invariant checks are implicitly disabled:UserWarning"  # whatever check_invariants says
    done = python(code, "-W", "error", "-W", "ignore:Sparse CSR tensor support:UserWarning", "-W", torch_2_11)
    assert done.returncode == 0, done.stderr
