from typing import Any


def t2c_csr(T: Any) -> Any:
    """Soon."""
