"""Real gloo processes for tests: every rank is an operating system process, and what it sends goes through sockets.

    run(ranks, function, *args)      function(group, *args) on every rank of a pool that is kept; results in rank order
    fresh(ranks, function, *args)    the same in processes of their own, which the function may kill

`function` and `args` are pickled: a function at the top of a test file, and values. `group` is a gloo group of `ranks`
ranks; in `fresh` it is also the default group. What a rank raises is raised in the test, with the rank's traceback. A
job that does not end in time is killed, and the stacks of its ranks are in the error. The processes are forked by a
server that has imported torch and pidsl, are started by the first job, and die with the test process.
"""

from __future__ import annotations

import faulthandler
import itertools
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

MOST = 8  # ranks of the pool
LIMIT = 60.0  # seconds that a job may take
GRACE = 3.0  # seconds that the others get when a rank has failed
PRELOADED = [
    "torch", "torch.distributed", "torch.distributed.device_mesh", "hypothesis", "islpy", "numpy.ma", "pytest", "pidsl",
    "pidsl.codegen.lower", "pidsl.codegen.emit_torch.source", "pidsl.relation.slots", "pidsl.runtime.cache.cache",
    "pidsl.distributed.running.context", "pidsl.distributed.running.decode", "pidsl.runtime.compile",
    "pidsl.runtime.run_torch.program", "pidsl.testing",
]  # fmt: skip

_forking = multiprocessing.get_context("forkserver")
_pool: Pool | None = None


@dataclass(frozen=True)
class Died:
    """What `fresh` gives for a rank that did not live to return: its exit status, -9 for `kill -9`."""

    status: int | None


class RankError(AssertionError):
    """A rank raised, died or did not end in time; the text has what each of them said."""


def run(ranks: int, function: Callable[..., Any], *args: object, limit: float = LIMIT) -> list[Any]:
    """What `function(group, *args)` returned on each of `ranks` <= 8 ranks, in processes that are kept.

    The default group has 8 ranks. After a failure the next job has new processes.

    Raises:
        RankError: a rank raised, died, or did not return within `limit` seconds.
    """
    global _pool
    if _pool is None or not _pool.alive:
        _pool = Pool(MOST, limit)
    try:
        return _pool.run(ranks, function, args, limit)
    except BaseException:  # half a job may be on its way between the ranks
        _pool.close()
        _pool = None
        raise


def fresh(
    ranks: int, function: Callable[..., Any], *args: object, timeout: float = 30.0, limit: float = LIMIT
) -> list[Any]:
    """The same in processes of their own: `Died` for the ranks that were killed.

    `timeout` seconds is that of the group. Rank 0 hosts the store, as it does without torchrun.
    """
    pool = Pool(ranks, limit, timeout)
    try:
        return pool.run(ranks, function, args, limit, may_die=True)
    finally:
        pool.close()


class Pool:
    """Processes that share a default group, and groups of the first 1, 2, ... of them."""

    def __init__(self, ranks: int, limit: float, timeout: float = 120.0) -> None:
        _forking.set_forkserver_preload(PRELOADED)
        self.folder = tempfile.TemporaryDirectory(prefix="gloo")
        self.stacks = Path(self.folder.name)
        pipes = [_forking.Pipe() for _ in range(ranks)]
        self.pipes = [ours for ours, _ in pipes]
        self.processes = [
            _forking.Process(target=_serve, args=(rank, ranks, theirs, self.stacks, timeout), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # the server takes the environment that it is started in
        try:
            for process in self.processes:
                process.start()
        finally:
            os.environ.pop("OMP_NUM_THREADS") if threads is None else os.environ.update(OMP_NUM_THREADS=threads)
        for _, theirs in pipes:
            theirs.close()  # so that the end of a process ends its pipe
        port = self._answers(self.pipes[:1], limit)[0]
        for pipe in self.pipes[1:]:
            pipe.send(port)

    @property
    def alive(self) -> bool:
        return all(process.is_alive() for process in self.processes)

    def run(
        self, ranks: int, function: Callable[..., Any], args: tuple[object, ...], limit: float, may_die: bool = False
    ) -> list[Any]:
        job = pickle.dumps((ranks, sys.path), -1), pickle.dumps((function, args), -1)
        for pipe in self.pipes:  # all make the group, its ranks alone run the function
            pipe.send(job)
        return self._answers(self.pipes[:ranks], limit, may_die)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process, pipe in zip(self.processes, self.pipes, strict=True):
            process.join()
            pipe.close()
        self.folder.cleanup()

    def _answers(self, pipes: list[Connection], limit: float, may_die: bool = False) -> list[Any]:
        answers: dict[int, Any] = {}
        faults: dict[int, str] = {}
        end = time.monotonic() + limit
        while missing := [rank for rank in range(len(pipes)) if rank not in answers and rank not in faults]:
            ready = wait([pipes[rank] for rank in missing], max(0.0, end - time.monotonic()))
            if not ready:
                why = "another had failed" if faults else f"{limit:g} seconds"
                faults |= {rank: f"did not return ({why}), and was at\n{self._stack(rank)}" for rank in missing}
            for rank in [rank for rank in missing if pipes[rank] in ready]:
                try:
                    good, value = pickle.loads(pipes[rank].recv_bytes())
                    (answers if good else faults)[rank] = value
                except (EOFError, ConnectionResetError):
                    self.processes[rank].join()
                    status = self.processes[rank].exitcode
                    if may_die:
                        answers[rank] = Died(status)
                    else:
                        faults[rank] = f"died with status {status}"
                if faults:
                    end = min(end, time.monotonic() + GRACE)
        if faults:
            raise RankError("\n".join(f"rank {rank} of {len(pipes)}: {faults[rank]}" for rank in faults))
        return [answers[rank] for rank in range(len(pipes))]

    def _stack(self, rank: int) -> str:
        file = self.stacks / str(rank)
        for _ in range(20):
            if self.processes[rank].is_alive():
                os.kill(self.processes[rank].pid or 0, signal.SIGUSR1)
            time.sleep(0.05)
            if file.exists() and (text := file.read_text()):
                return text
        return "(no stack)"


def _serve(rank: int, ranks: int, pipe: Connection, stacks: Path, timeout: float) -> None:
    """The life of a rank: join the group, do jobs until the pipe ends."""
    import torch
    import torch.distributed as dist

    log = (stacks / str(rank)).open("w")
    faulthandler.register(signal.SIGUSR1, log)
    threading.Thread(target=_die_with_the_test, daemon=True).start()
    torch.set_num_threads(1)
    wait_for = timedelta(seconds=timeout)
    try:
        if rank == 0:
            store = dist.TCPStore("127.0.0.1", 0, ranks, True, wait_for, wait_for_workers=False)
            _say(pipe, True, store.port)
        else:
            store = dist.TCPStore("127.0.0.1", pipe.recv(), ranks, False, wait_for)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=wait_for)
        groups: dict[int, Any] = {ranks: dist.group.WORLD}
        for count in itertools.count():
            heading, job = pipe.recv()
            size, path = pickle.loads(heading)
            sys.path += [folder for folder in path if folder not in sys.path]
            if size not in groups:
                groups[size] = dist.new_group(list(range(size)), timeout=wait_for)
            if rank < size:
                function, args = pickle.loads(job)
                torch.manual_seed(count)
                _say(pipe, True, function(groups[size], *args))
    except EOFError:
        pass
    except BaseException:
        _say(pipe, False, "raised\n" + traceback.format_exc())
        threading.Event().wait()  # the others may still ask this one's store who is there; the test ends it


def _say(pipe: Connection, good: bool, value: object) -> None:
    pipe.send_bytes(pickle.dumps((good, value), -1))  # `send` would lend out the memory of tensors


def _die_with_the_test() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
