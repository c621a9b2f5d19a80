"""Samples side by side on the cores of a CPU."""

import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Workers whose torch operations take one core each. Together with the operations' own threads there
    would be more threads than cores, and OpenMP's waiting would cost more than the work."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))


def each(work: Callable[[int], None], count: int) -> None:
    """``work(i)`` for i in range(count), as many at a time as torch uses threads; results do not depend on
    their number. The first exception is raised."""
    threads = torch.get_num_threads()
    if threads == 1 or count == 1:
        for i in range(count):
            work(i)
        return
    pool = _pool(threads)

    def share(first: int) -> None:
        for i in range(first, count, threads):
            work(i)

    try:
        for _ in pool.map(share, range(threads)):
            pass
    finally:
        torch.set_num_threads(threads)  # a worker's setting reaches MKL as a whole
