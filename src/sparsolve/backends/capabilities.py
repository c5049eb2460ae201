"""What this machine can do: versions, devices, which solver uses what, what is missing and how it is installed."""

from __future__ import annotations

import importlib.util
import platform
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..errors import sentence
from . import _SOLVERS, cudss_library, strategy
from .cupy_runtime import problem

__all__ = ["available"]

_LIBRARIES = ("numpy", "scipy", "optree", "pyamg", "mkl", "pymetis", "klujax", "scikit-sparse")
_USES: dict[Any, str] = {
    "cupy_lu": "SuperLU (SciPy) on the host, cuSPARSE (CuPy) on the device",
    "iterative": "sparsolve over NumPy and SciPy",
    "cupy_iterative": "sparsolve over CuPy",
    "function": "your callable",
    "cupy_function": "your callable",
    "determinant": "SuperLU (SciPy)",
    "cupy_determinant": "SuperLU (SciPy) on the host",
}


def available() -> dict[str, dict[str, str]]:
    """See `sparsolve.backends.available`."""
    cuda = problem() if torch.cuda.is_available() else _no_gpu()
    missing = {} if cuda is None else {"cuda": cuda}
    if importlib.util.find_spec("pyamg") is None:
        missing["AMG"] = sentence("AMG needs pyamg.", remedy='Install it: pip install "sparsolve[amg]".')
    missing |= (without := strategy.missing())
    uses = _USES | {("direct", name): _direct(name, without) for name in ("LU", "Cholesky")}
    if cuda is None:
        why = cudss_library.missing()
        missing |= {} if why is None else {"cudss": why}
        uses["cupy_lu"] = ("" if why else "cuDSS where it pays, else ") + uses["cupy_lu"]
    solvers = {
        f"{solver} on {device}": uses.get((module, solver)) or uses.get(module, module)
        for (solver, device), module in _SOLVERS.items()
        if device == "cpu" or cuda is None
    }
    return {"versions": _versions(), "devices": _devices(cuda is None), "solvers": solvers, "missing": missing}


def _direct(solver: str, without: dict[str, str]) -> str:
    """The backends that have a strategy for it."""
    modules = {name: import_module(f".{name}", __package__) for name in strategy.BACKENDS if name not in without}
    serve = (name for name, m in modules.items() if any(c.definite == (solver == "Cholesky") for c in m.CANDIDATES))
    return f"the first that suits: {', '.join(serve)}"


def _no_gpu() -> str:
    if torch.version.cuda is None:
        return sentence(
            f"This torch ({torch.__version__}) is built without CUDA.",
            remedy="Install a torch with CUDA as torch's own instructions say, and then CuPy.",
        )
    cupy = problem()
    return sentence("torch finds no GPU.", "No NVIDIA driver, or CUDA_VISIBLE_DEVICES hides it.", cupy or "")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "torch": torch.__version__}  # which says the build, too
    for name in (*_LIBRARIES, "cupy-cuda12x", "cupy-cuda13x", "cupy", "nvidia-cudss-cu12", "nvidia-cudss-cu13"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    if torch.version.cuda is not None:
        found["CUDA of torch"] = torch.version.cuda
    return found


def _devices(cuda: bool) -> dict[str, str]:
    """By name; only those that tensors can be solved on."""
    found = {"cpu": platform.processor() or platform.machine()}
    if cuda:
        found |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    return found
