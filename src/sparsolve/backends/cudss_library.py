"""NVIDIA cuDSS through `ctypes`: found, its version looked at before anything else, its functions and numbers as its header has them.

What differs between versions, by their headers: `cudssMatrixCreateCsr` has one type for both index arrays in 0.7 and one each in 0.8
and 1.0; `CUDSS_CONFIG_SOLVE_MODE` is 5 in 0.7, 4 in 0.8 and 1.0; of 0.7 and 0.8 the file has one name. Both take any solve mode,
nonsense too, return success and solve with A: a wrong gradient. So nothing below 1.0 is used.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from ..errors import sentence
from .cupy_runtime import cuda_major, give_back
from .decomposition import DecompositionError, places

__all__ = [
    "Config",
    "Data",
    "MatrixType",
    "Phase",
    "View",
    "call",
    "get",
    "library",
    "missing",
    "prepared",
    "value_type",
]


class Phase:
    """`cudssPhase_t`."""

    ANALYSIS, FACTORIZATION, REFACTORIZATION, SOLVE = 3, 4, 8, 1008


class Config:
    """`cudssConfigParam_t`."""

    SOLVE_MODE = 4


class Data:
    """`cudssDataParam_t`."""

    INFO, LU_NNZ, NPIVOTS, MEMORY_ESTIMATES = 0, 1, 2, 13


class MatrixType:
    """`cudssMatrixType_t`."""

    GENERAL, SYMMETRIC, HERMITIAN, SPD, HPD = range(5)


class View:
    """`cudssMatrixViewType_t`: what is read of the matrix that is given."""

    FULL, LOWER, UPPER = range(3)


_P, _I, _L, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_ARGUMENTS = {
    "cudssCreate": [_P],
    "cudssDestroy": [_P],
    "cudssSetStream": [_P, _P],
    "cudssConfigCreate": [_P],
    "cudssConfigDestroy": [_P],
    "cudssConfigSet": [_P, _I, _P, _S],
    "cudssDataCreate": [_P, _P],
    "cudssDataDestroy": [_P, _P],
    "cudssDataGet": [_P, _P, _I, _P, _S, _P],
    "cudssMatrixCreateCsr": [_P, _L, _L, _L, _P, _P, _P, _P, _I, _I, _I, _I, _I, _I],
    "cudssMatrixCreateDn": [_P, _L, _L, _L, _P, _I, _I],
    "cudssMatrixSetValues": [_P, _P],
    "cudssMatrixDestroy": [_P],
    "cudssExecute": [_P, _I, _P, _P, _P, _P, _P],
}
_ALLOC_FAILED = 2
_STATUS = {
    1: "it is not initialized",
    3: "an argument is invalid",
    4: "this is not supported",
    5: "the computation failed",
    6: "an internal error",
    7: "its refinement failed",
}


def missing() -> str | None:
    """None if cuDSS can be used here, else why not and what to install."""
    return _loaded()[1]


def library() -> Any:
    """The functions, as attributes."""
    return _loaded()[0]


def call(name: str, *args: Any) -> None:
    """One function of cuDSS.

    Raises:
        torch.OutOfMemoryError: it lacks memory; what the memo and torch's pool held is free by then, and a second try may do.
        DecompositionError: any other status but success.
    """
    status = getattr(library(), name)(*args)
    if status == _ALLOC_FAILED:
        give_back()
        raise torch.OutOfMemoryError(
            sentence(
                f"CUDA out of memory: {name} of cuDSS had none.",
                "The factors are too large for this GPU, or others use it.",
                'backend="superlu" factorizes in the memory of the host.',
            )
        )
    if status != 0:
        raise DecompositionError(sentence(f"cuDSS failed: {_STATUS.get(status, 'unknown')}.", call=name, status=status))


def get(handle: Any, data: Any, parameter: int, kind: Any) -> Any:
    """What `cudssDataGet` says, as a `ctypes` object of this kind; waits for the stream."""
    value, written = kind(), ctypes.c_size_t(0)
    call(
        "cudssDataGet", handle, data, parameter, ctypes.byref(value), ctypes.sizeof(value), ctypes.byref(written)
    )  # fmt: skip
    return value


def value_type(dtype: Any) -> int:
    """`cudaDataType_t` of a NumPy dtype."""
    return {"f": 0, "d": 1, "F": 4, "D": 5, "i": 10}[dtype.char]


def _remedy() -> str:
    return f'pip install "sparsolve[cudss{cuda_major()}]" installs it.'


_open = ctypes.CDLL


@cache
def _loaded() -> tuple[Any, str | None]:
    """The library or None, and why not or None."""
    reason = f"cuDSS is not installed. {_remedy()}"
    for path in _places():
        try:
            found = _open(path)
        except OSError as error:
            if os.path.isabs(path):
                reason = f"cuDSS at {path} cannot be loaded: {error}. {_remedy()}"
            continue
        try:
            why = prepared(found)
        except AttributeError as error:
            why = f"The library lacks a function: {error}."
        if why is None:
            return found, None
        reason = f"{why} {_remedy()}"
    return None, reason


def prepared(found: Any) -> str | None:
    """Declare the functions of a library of version 1; for another one, why it is not used."""
    numbers = [ctypes.c_int(-1) for _ in range(3)]
    for i, number in enumerate(numbers):
        found.cudssGetProperty(i, ctypes.byref(number))
    version = ".".join(str(n.value) for n in numbers)
    if numbers[0].value < 1:
        return f"cuDSS {version} is too old: it ignores the setting to solve with the adjoint."
    if numbers[0].value > 1:
        return f"cuDSS {version} is newer than this package, which knows the interface of version 1."
    for name, arguments in _ARGUMENTS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = ctypes.c_int, arguments
    return None


def _places() -> Iterator[str]:
    """Where cuDSS may be: the wheel for torch's CUDA first, what the system's loader knows last."""
    folders = ("lib", "lib64", "bin", "Library/bin")
    yield from map(str, places(f"nvidia-cudss-cu{cuda_major()}", "CUDSS_DIR", folders, _is_library))
    yield from ("libcudss.so.1", "cudss64_1.dll")


def _is_library(name: str) -> bool:
    return name.startswith("libcudss.so") or (name.startswith("cudss64") and name.endswith(".dll"))
