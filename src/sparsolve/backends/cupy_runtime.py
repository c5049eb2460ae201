"""CuPy, imported when first needed, on torch's device, in torch's stream and in torch's memory; tensors as CuPy arrays and back.

CuPy's current device, stream and allocator belong to a thread and are not torch's. So each op (autograd's thread runs ops too)
works inside `here`, and with nothing else is a kernel of CuPy in order with torch's.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, cuda
from torch.utils.dlpack import from_dlpack

from ..errors import BackendUnavailableError, of_device, sentence
from ..memo import release

__all__ = [
    "Here",
    "aligned",
    "array",
    "cuda_major",
    "cupy",
    "give_back",
    "here",
    "new",
    "now",
    "problem",
    "sparse",
    "sparse_linalg",
    "tensor",
]


def cuda_major() -> str:
    """The major version of torch's CUDA, as extras of this package and NVIDIA's wheels have it in their names."""
    return "13" if (torch.version.cuda or "12").startswith("13") else "12"


@cache
def _loaded() -> Any:
    """The package, or the exception that its import ended with."""
    try:
        return import_module("cupy")
    except Exception as error:  # a broken installation raises what it likes
        return error


def problem() -> str | None:
    """Why CUDA tensors cannot be solved here, with the remedy; None if they can."""
    cp = _loaded()
    line = f'pip install "sparsolve[cuda{cuda_major()}]"'
    if isinstance(cp, ModuleNotFoundError):
        return sentence("CUDA tensors are solved through CuPy, and it is not installed.", remedy=f"Install it: {line}.")
    if isinstance(cp, Exception):
        return sentence(
            f"CuPy cannot be imported: {' '.join(str(cp).split())}.",
            "An installation for another Python or NumPy, or two of CuPy's packages beside each other, perhaps.",
            f"Uninstall every cupy package, then {line}.",
        )
    if not hasattr(cp.cuda.Stream, "from_external"):
        return sentence(f"CuPy {cp.__version__} is too old to work in torch's stream.", remedy=f"Upgrade it: {line}.")
    if not cp.is_available():
        return sentence(
            f"CuPy {cp.__version__} is installed, but finds no GPU.",
            "No NVIDIA driver, or one too old for this CuPy; or CUDA_VISIBLE_DEVICES hides the GPU.",
            f"Look at what nvidia-smi says. The CuPy that fits this torch: {line}.",
        )
    try:
        import_module(f"{cp.__name__}x.scipy.sparse.linalg")
    except Exception as error:  # each release reports a library that it cannot load by an exception of its own
        return sentence(
            f"CuPy {cp.__version__} lacks CUDA libraries: {' '.join(str(error).split())}.",
            "The wheel of CuPy brings none of them.",
            f"Install them from PyPI: {line}, or give the CUDA toolkit's place in CUDA_PATH.",
        )
    return None


@cache
def cupy() -> Any:
    """CuPy; `BackendUnavailableError` where it cannot work."""
    found = problem()
    if found is not None:
        raise BackendUnavailableError(f"{found} Or move A and b to the CPU: values.cpu(), b.cpu().")
    return _loaded()


def sparse() -> Any:
    """`cupyx.scipy.sparse`, or what stands in for it."""
    return _part("scipy.sparse")


def sparse_linalg() -> Any:
    """`cupyx.scipy.sparse.linalg`."""
    return _part("scipy.sparse.linalg")


@cache
def _part(name: str) -> Any:
    return import_module(f"{cupy().__name__}x.{name}")


class Here:
    """Where an op of this thread works.

    Attributes:
        device: of its tensors.
        stream: torch's current one there.
        foreign: whether the op reads what was made in another stream and may be let go of at any time.
        made: tensors whose memory the arrays made by `new` are, by the array's identity.
    """

    def __init__(self, device: torch.device, stream: Any) -> None:
        self.device, self.stream = device, stream
        self.foreign = False
        self.made: dict[int, tuple[Any, Tensor]] = {}


_local = threading.local()
_NO_MEMORY = (  # for an array, a kernel's code, a library's workspace, its handle
    "cudaErrorMemoryAllocation",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "STATUS_ALLOC_FAILED",
    "STATUS_INSUFFICIENT_RESOURCES",
    "STATUS_NOT_INITIALIZED",
)


def now() -> Here:
    """Where this thread's op works."""
    return _local.here  # type: ignore[no-any-return]


@contextmanager
def here(device: torch.device) -> Iterator[Here]:
    """torch's device, stream and memory for CuPy, in this thread; where a library of CuPy's has no memory, torch's error.

    What a memo holds may be let go of by another thread at any time, and its memory be used again in the stream where it
    was allocated. So an op that read such a thing in another stream waits at its end, on failure too.
    """
    cp, index = cupy(), device.index or 0
    with cuda.device(index), cp.cuda.Device(index):
        stream = cuda.current_stream(index)
        with cp.cuda.Stream.from_external(stream), cp.cuda.using_allocator(_memory):
            outer, _local.here = getattr(_local, "here", None), Here(device, stream)
            try:
                yield _local.here
            except RuntimeError as error:
                if not of_device(error) or not any(name in str(error) for name in _NO_MEMORY):
                    raise
                raise torch.OutOfMemoryError(
                    sentence(
                        f"CUDA out of memory: {error}.",
                        "What CUDA's libraries need for themselves, torch's pool has taken.",
                        "Free tensors and call torch.cuda.empty_cache().",
                    )
                ) from error
            finally:
                if _local.here.foreign:
                    stream.synchronize()
                _local.here = outer


def give_back() -> None:
    """To the driver what the memo and torch's pool hold, for libraries that take their memory from there."""
    release()
    cuda.empty_cache()


def _bytes(size: int, device: torch.device) -> Tensor:
    return torch.empty(size, dtype=torch.uint8, device=device)


def _memory(size: int) -> Any:
    """torch's memory for CuPy's temporary arrays: one pool, and what is free in it is free for both.

    A tensor owns it. (CuPy's `PythonFunctionAllocator` calls a function to free it, which Python's garbage collector or its end may have taken away by then.)
    """
    cp_cuda = cupy().cuda
    index = cp_cuda.runtime.getDevice()  # a user's callable may have made another one the current one
    t = _bytes(size, torch.device(now().device.type, index))
    return cp_cuda.MemoryPointer(cp_cuda.UnownedMemory(t.data_ptr(), size, t, index), 0)


def array(t: Tensor) -> Any:
    """A tensor as a C-contiguous CuPy array, its own memory where it can be, with torch's lazy conjugate and negative bits applied.

    The bits are undone by flipping them, for `resolve_conj` does nothing where a compiled graph runs the op.
    """
    t = t.detach()
    conj, neg = t.is_conj(), t.is_neg()
    if conj:
        t = t.conj()
    if neg:
        t = torch._neg_view(t)
    a = cupy().from_dlpack(t)
    a = a.conj() if conj else a
    return cupy().ascontiguousarray(-a if neg else a)


def aligned(a: Any) -> Any:
    """The array, or a copy that begins where an allocation may: cuSPARSE reads 16 bytes at once, whatever the type."""
    return a if a.data.ptr % 16 == 0 else a.copy("K")


def new(shape: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialized array in the memory of a tensor, which `tensor` returns: an ordinary one of torch's."""
    t = torch.empty(shape, dtype=_dtype(np.dtype(dtype)), device=now().device)
    a = cupy().from_dlpack(t)
    now().made[id(a)] = a, t
    return a


def tensor(a: Any) -> Tensor:
    """A contiguous tensor of an array: the one that `new` made, in the array's shape, or one that shares the array's memory."""
    made = now().made.pop(id(a), None) or now().made.pop(id(a.base), None)
    return made[1].reshape(a.shape) if made is not None else from_dlpack(cupy().ascontiguousarray(a))


@cache
def _dtype(dtype: Any) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype
