"""Threads of linear algebra: one, where matrices are small."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


def one_blas_thread() -> AbstractContextManager[Any]:
    """Keep the linear algebra of this process to one thread for a while.

    With matrices of some hundred rows, threads wait for each other longer than they work. Beside other work
    on two cores, a Gaussian process of 250 points took 30 s to fit with two threads, and 0.5 s with one.

    Returns:
        A context; the number of threads is as before when it ends.
    """
    limited: AbstractContextManager[Any] = _controller().limit(limits=1, user_api="blas")
    return limited


@cache
def _controller() -> ThreadpoolController:
    """Find the libraries, once; by now NumPy's and SciPy's are loaded."""
    return ThreadpoolController()
