"""Work of one operation on as many threads as torch computes with."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import torch


def side_by_side(tasks: Sequence[Callable[[], None]]) -> None:
    """Run independent tasks, which should leave the interpreter's lock alone for most of their time.

    Inside a task torch has one thread, records no gradient, and is watched by nobody.

    Raises:
        Exception: the first that a task raised; no other task still runs.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for task in tasks:
                task()
        return
    running = [_pool(threads).submit(task) for task in tasks]
    failed = [error for each in running if (error := each.exception()) is not None]
    if failed:
        raise failed[0]


def shares(count: int) -> list[tuple[int, int]]:
    """As many even parts of a range as there are threads."""
    return parts(count, torch.get_num_threads())


def parts(count: int, number: int) -> list[tuple[int, int]]:
    """Even parts of a range, from one to another."""
    bounds = [count * part // number for part in range(number + 1)]
    return [pair for pair in pairwise(bounds) if pair[0] < pair[1]]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads that stay, begun at once: what each says of itself changes torch's count for threads to come."""
    begun = threading.Barrier(threads)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="convscope-compute", initializer=_alone)
    for each in [pool.submit(begun.wait) for _ in range(threads)]:
        each.result()
    torch.set_num_threads(threads)
    return pool


def _alone() -> None:
    torch.set_num_threads(1)
    torch.get_num_threads()  # the first call in a thread takes the count that was set last, by any thread
    torch.set_grad_enabled(False)
