"""A strict stand-in for CuPy, on NumPy: what CuPy refuses, it refuses; what CuPy only punishes with wrong numbers, too.

- An array is a type of its own. NumPy does not convert it, and no operation takes NumPy's arrays or lists beside it.
- Every operation needs the current device, stream and allocator of its thread, and arrays of that device.
- A kernel that reads what another stream wrote, with no wait in between, is an error; so is memory from anywhere but torch.
- What the host has to wait for is counted (`waits`).
- Only plain scalars are taken for numbers: no enumeration, no 0-d NumPy array.
- In single precision nothing is between 0 and the smallest normal number (CuPy compiles with -ftz=true).
- A view of another type has to begin at a multiple of its size.

The names are CuPy's. `standin_cupyx` is the sparse part; `device` and `torch_cuda` play torch's side.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

__version__ = "0.standin"
finfo, iinfo = np.finfo, np.iinfo
waits = 0  # how often the host waited for the device
_clock = itertools.count(1)
_local = threading.local()
_SCALARS = {int, float, complex, bool}


class CUDADriverError(RuntimeError):
    """As CuPy's: of the driver, which has no memory left for the code of a kernel, for one."""


class CuSparseError(RuntimeError):
    """As CuPy's."""


def is_available() -> bool:
    return True


# ---- streams, devices, memory


class TorchStream:
    """What torch.cuda.Stream is: equal by identity, and known to CuPy by `__cuda_stream__`."""

    def __init__(self, device: int = 0) -> None:
        self.device, self.waited = device, 0

    cuda_stream = property(id)

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, id(self)

    def synchronize(self) -> None:
        global waits
        waits += 1
        self.waited = next(_clock)


class TorchCuda:
    """torch.cuda: current device and stream of each thread, and the caching allocator, which may be short of memory."""

    def __init__(self) -> None:
        self.default = {i: TorchStream(i) for i in range(2)}
        self.limit = float("inf")
        self.sizes: dict[int, int] = {}
        self.emptied = 0  # how often the free part of the pool was given back to the driver
        self.local = threading.local()

    def current_stream(self, index: int) -> TorchStream:
        return getattr(self.local, "streams", {}).get(index, self.default[index])

    @contextlib.contextmanager
    def stream(self, stream: TorchStream) -> Any:
        before = getattr(self.local, "streams", {})
        self.local.streams = {**before, stream.device: stream}
        yield
        self.local.streams = before

    @contextlib.contextmanager
    def device(self, index: int) -> Any:
        before, self.local.index = getattr(self.local, "index", 0), index
        try:
            yield
        finally:
            self.local.index = before

    def empty_cache(self) -> None:
        self.emptied += 1

    def bytes(self, size: int, device: torch.device) -> torch.Tensor:
        if sum(list(self.sizes.values())) + size > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory (stand-in)")
        t = torch.empty(size, dtype=torch.uint8)
        key = next(_clock)
        self.sizes[key] = size
        weakref.finalize(t, self.sizes.pop, key)
        return t


class _UnownedMemory:
    def __init__(self, pointer: int, size: int, owner: Any, device_id: int) -> None:
        assert (pointer, size, device_id) == (owner.data_ptr(), owner.numel(), now().index)
        self.owner = owner


class _MemoryPointer:
    def __init__(self, memory: _UnownedMemory, offset: int) -> None:
        assert offset == 0
        self.memory = memory


class _Context:
    """A value of `_local` for a while."""

    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def __enter__(self) -> None:
        self.before = getattr(_local, self.name, None)
        setattr(_local, self.name, self.value)

    def __exit__(self, *_: Any) -> None:
        setattr(_local, self.name, self.before)


class _Stream:
    @staticmethod
    def from_external(stream: Any) -> _Context:
        assert hasattr(stream, "__cuda_stream__")
        assert stream.device == getattr(_local, "index", None), "a stream of another device than the current one"
        return _Context("stream", stream)


cuda = SimpleNamespace(
    Device=lambda index: _Context("index", index),
    Stream=_Stream,
    using_allocator=lambda malloc: _Context("malloc", malloc),
    UnownedMemory=_UnownedMemory,
    runtime=SimpleNamespace(getDevice=lambda: now().index),
    MemoryPointer=_MemoryPointer,
)


def now() -> Any:
    found = [getattr(_local, name, None) for name in ("index", "stream", "malloc")]
    if any(v is None for v in found):
        raise RuntimeError("an operation outside of torch's device, stream and memory")
    return SimpleNamespace(**dict(zip(("index", "stream", "malloc"), found, strict=True)))


def wait() -> None:
    """The host waits for the current stream."""
    now().stream.synchronize()


# ---- arrays

# What was ever asked for its address: the arrays there, each with its memory, while they live, and its numbers, so that none takes its address again.
pointers: dict[int, list[tuple[Any, Any, Any]]] = {}


class ndarray:  # noqa: N801
    """An array on the device."""

    __array_ufunc__ = None
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, a: Any, memory: Any = None) -> None:
        at = now()
        self._a = a
        assert not a.size or a.ctypes.data % a.itemsize == 0, "a misaligned address"
        self.index, self.stream, self.time = at.index, at.stream, next(_clock)
        self.memory = at.malloc(a.nbytes) if memory is None else memory
        self.base: ndarray | None = None

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct one.")

    @property
    def data(self) -> Any:
        address = self._a.ctypes.data
        known = pointers.setdefault(address, [])
        if not any(entry[0]() is self for entry in known):
            known.append((weakref.ref(self), weakref.ref(self.memory), self._a))
        return SimpleNamespace(ptr=address)

    shape = property(lambda self: self._a.shape)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    flags = property(lambda self: self._a.flags)
    device = property(lambda self: _Context("index", self.index))
    T = property(lambda self: self._view(self._a.T))
    real = property(lambda self: self._view(self._a.real))
    imag = property(lambda self: self._view(self._a.imag))

    def _view(self, a: Any) -> ndarray:
        """In the same memory, written when that was."""
        v = ndarray(a, self.memory)
        v.stream, v.time = self.stream, self.time
        v.base = self if self.base is None else self.base
        return v

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def get(self, stream: Any = None) -> Any:
        use(self)
        wait()
        return self._a.copy()

    def item(self) -> Any:
        return self.get().item()

    def __bool__(self) -> bool:
        return bool(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __getitem__(self, key: Any) -> ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        fancy = [k for k in keys if isinstance(k, ndarray)]
        assert not any(isinstance(k, (np.ndarray, list)) for k in keys), "indices from the host"
        if any(k.dtype == bool for k in fancy):
            wait()
        found = self._a[tuple(use(k) if isinstance(k, ndarray) else k for k in keys)]
        return made(use(self) if not keys else np.asarray(found)) if fancy else self._view(np.asarray(found))

    def __setitem__(self, key: Any, value: Any) -> None:
        keys = key if isinstance(key, tuple) else (key,)
        assert not any(isinstance(k, (np.ndarray, list)) for k in keys), "indices from the host"
        self._a[tuple(use(k) if isinstance(k, ndarray) else k for k in keys)] = number(value)
        self._written()

    def _written(self) -> None:
        self.stream, self.time = now().stream, next(_clock)

    def fill(self, value: Any) -> None:
        self._a.fill(number(value))
        self._written()

    def view(self, dtype: Any) -> ndarray:
        return self._view(self._a.view(dtype))

    def reshape(self, *shape: Any) -> ndarray:
        found = use(self).reshape(*shape)
        return self._view(found) if np.shares_memory(found, self._a) or not found.size else made(found)

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def transpose(self, *axes: int) -> ndarray:
        return self._view(self._a.transpose(*axes))

    def swapaxes(self, i: int, j: int) -> ndarray:
        return self._view(self._a.swapaxes(i, j))

    def astype(self, dtype: Any, copy: bool = True) -> ndarray:
        return self if not copy and self.dtype == dtype else made(use(self).astype(dtype))

    def copy(self, order: str = "C") -> ndarray:
        return made(use(self).copy(order))

    def conj(self) -> ndarray:
        return self if self.dtype.kind != "c" else ufunced(use(self).conj())

    def take(self, indices: ndarray, axis: int | None = None) -> ndarray:
        return made(use(self).take(use(indices), axis))

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._a.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self._a.__dlpack_device__()


def use(a: Any) -> Any:
    """The numbers of an array, for a kernel of the current stream."""
    assert isinstance(a, ndarray), f"{type(a).__name__} where an array of the device is needed"
    at = now()
    assert a.index == at.index, f"an array of device {a.index} on device {at.index}"
    if a.stream is not at.stream and a.time > a.stream.waited:
        raise AssertionError("a race: another stream wrote this, and nobody waited for it")
    return a._a


def number(value: Any) -> Any:
    """An array's numbers, or a plain scalar."""
    if isinstance(value, ndarray):
        return use(value)
    if type(value) not in _SCALARS and not isinstance(value, np.generic):
        raise TypeError(f"Unsupported type {type(value)}")
    return value


def made(a: Any) -> ndarray:
    return ndarray(flushed(np.asarray(a)))


def ufunced(a: Any) -> ndarray:
    """What a ufunc makes: in C order, whatever its operands are."""
    return made(np.ascontiguousarray(a).reshape(np.shape(a)))


def flushed(a: Any) -> Any:
    """What a kernel writes: 0 for what is smaller than the smallest normal number, in single precision."""
    if a.dtype.char not in "fF":
        return a
    parts = np.array(a, order="K")
    for part in (parts.real, parts.imag) if a.dtype.kind == "c" else (parts,):
        part[np.abs(part) < np.finfo(np.float32).tiny] = 0
    return parts


def _binary(op: Any) -> Any:
    def apply(self: ndarray, other: Any) -> Any:
        if other is None or isinstance(other, str):
            return NotImplemented
        with np.errstate(all="ignore"):
            return ufunced(op(use(self), number(other)))

    return apply


def _reflected(op: Any) -> Any:
    return _binary(lambda a, b: op(b, a))


def _in_place(op: Any) -> Any:
    def apply(self: ndarray, other: Any) -> ndarray:
        with np.errstate(all="ignore"):
            op(use(self), number(other))
        self._written()
        return self

    return apply


for _name in ("add", "sub", "mul", "truediv", "pow", "and_", "or_"):
    _bare = _name.rstrip("_")
    setattr(ndarray, f"__{_bare}__", _binary(getattr(operator, _name)))
    setattr(ndarray, f"__r{_bare}__", _reflected(getattr(operator, _name)))
    setattr(ndarray, f"__i{_bare}__", _in_place(getattr(operator, f"i{_bare}")))
for _name in ("lt", "le", "gt", "ge", "eq", "ne", "matmul"):
    setattr(ndarray, f"__{_name}__", _binary(getattr(operator, _name)))


def _unary(op: Any) -> Any:
    return lambda self: ufunced(op(use(self)))


for _name in ("neg", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", _unary(getattr(operator, _name)))


def _reduction(name: str) -> Any:
    def apply(self: ndarray, axis: Any = None) -> ndarray:
        return made(getattr(use(self), name)(axis=axis))

    return apply


for _name in ("sum", "max", "min", "any", "all"):
    setattr(ndarray, _name, _reduction(_name))


# ---- functions


def _function(name: str, waiting: bool = False) -> Any:
    call = getattr(np, name)

    def apply(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", None)
        taken = [a if isinstance(a, str) else number(a) for a in args]
        with np.errstate(all="ignore"):
            found = call(*taken, **kwargs)
        if waiting:
            wait()
        if out is not None:
            assert out.shape == found.shape
            out[...] = made(found)
            return out
        make = ufunced if isinstance(call, np.ufunc) or name == "where" else made
        return tuple(map(make, found)) if isinstance(found, tuple) else make(found)

    return apply


_FUNCTIONS = "where maximum minimum sqrt hypot isfinite einsum vdot multiply ldexp frexp abs"
_FUNCTIONS += " zeros_like empty_like ones_like full_like asfortranarray"
for _name in _FUNCTIONS.split():
    globals()[_name] = _function(_name)
flatnonzero = _function("flatnonzero", waiting=True)
linalg = SimpleNamespace(solve=lambda A, b: made(np.linalg.solve(use(A), use(b))))


def matmul(a: ndarray, b: ndarray) -> ndarray:
    """Stacks of matrices are copied where they are not in C order."""
    if max(a.ndim, b.ndim) > 2:
        a, b = ascontiguousarray(a), ascontiguousarray(b)
    return made(np.matmul(use(a), use(b)))


def ascontiguousarray(a: ndarray) -> ndarray:
    return a if a._a.flags.c_contiguous else made(np.ascontiguousarray(use(a)))


def asarray(a: Any) -> ndarray:
    """From the host it is a copy."""
    return a if isinstance(a, ndarray) else made(np.array(a))


def zeros(shape: Any, dtype: Any = float) -> ndarray:
    return made(np.zeros(shape, dtype))


def empty(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    return made(np.full(shape, np.nan if np.dtype(dtype).kind in "fc" else 77, dtype, order))


def eye(n: int, dtype: Any = float) -> ndarray:
    return made(np.eye(n, dtype=dtype))


def arange(n: int) -> ndarray:
    return made(np.arange(n))


def stack(arrays: Any, axis: int = 0) -> ndarray:
    return made(np.stack([use(a) for a in arrays], axis))


def from_dlpack(t: torch.Tensor) -> ndarray:
    """A tensor's memory, without a copy."""
    assert isinstance(t, torch.Tensor)
    assert not any([t.requires_grad, t.is_conj(), t.is_neg()])
    return ndarray(t.numpy(), memory=t)
