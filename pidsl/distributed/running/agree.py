"""That all ranks mean the same, and what is said when one is gone: nothing hangs, and the rank is named.

    agreed      before an exchange: one small all-gather of a hash, and of how many rows each rank has
    refuse      instead of that, where a rank does not take the call
    together    what each rank makes for itself, unless one of them cannot
    told        what one rank makes for all
    watched     around communication: what goes wrong inside becomes an error that names the ranks that are not there

Ranks tell each other in the store of their group that something has failed, not through the connections that failed: a
rank that sees an error leaves a mark there, those that still wait see it within a tenth of a second and leave theirs,
and who has left none soon after is named. Nothing is written while all goes well, but for a line of each rank when a
group is used first: its process and host.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from pidsl.errors import ArgumentError, BackendError, PidslError

T = TypeVar("T")
Wait = Callable[[dist.Work], object]

LOOK = 0.1  # seconds between two looks at the store while a rank waits
GRACE = 5.0  # seconds, at most, in which those that are there leave their marks; a fifth of a short timeout
REFUSED = "refused"  # the fact of a rank that does not take the call, its error
SAID = "pidsl/failed"  # key of what the first rank saw that failed; of a rank: `_here` and `_marked`

_watches: WeakKeyDictionary[dist.ProcessGroup, _Watch] = WeakKeyDictionary()


def group_of(group: Any, where: str) -> dist.ProcessGroup:
    """A process group, that of a mesh of one dimension, or that of all ranks.

    Raises:
        ArgumentError: none of these.
    """
    if not dist.is_available() or not dist.is_initialized():
        hint = "torch.distributed.init_process_group(), in processes that torchrun has started"
        raise ArgumentError("torch.distributed: no process group", "one that is initialised", where, hint)
    if hasattr(group, "get_group"):
        if group.ndim != 1:
            raise ArgumentError(f"a mesh of {group.ndim} dimensions", "one of one", where, 'mesh["cp"]')
        group = group.get_group()
    found = dist.group.WORLD if group is None else group
    if not isinstance(found, dist.ProcessGroup):
        raise ArgumentError(f"group: {type(group).__name__}", "a process group of this rank, a mesh, or None", where)
    return found


def agreed(group: dist.ProcessGroup, facts: Mapping[str, str], rows: int | None = None) -> list[int]:
    """See that every rank of a group is about to do the same, and tell how many rows each of them holds.

    16 bytes of each rank are gathered: a hash of all facts, and the rows. The texts travel only where hashes differ.
    With `PIDSL_CHECK_VALUES=0`, and where nobody asks for rows, nothing is gathered when this rank has met the same
    facts before: then a rank that has changed its mind is found only when the exchange fails, or times out.

    Args:
        group: whose ranks all call this, at the same place.
        facts: what must be the same on all, by name: the term, n, the dtype, ...
        rows: of this rank; None: no rank has any.

    Returns:
        The rows of each rank, in rank order.

    Raises:
        ArgumentError: on every rank, where facts differ: which, on which ranks, and what each has; or what the call of
            a rank that `refuse`s has. The group can still be used.
        BackendError: a rank is gone, or has not come within the timeout of the group.
    """
    watch = _watch(group)
    key = hashlib.blake2b(repr(sorted(facts.items())).encode(), digest_size=8).digest()
    mine = (int.from_bytes(key, "little", signed=True), rows or 0)
    unchecked = rows is None and os.environ.get("PIDSL_CHECK_VALUES", "1") == "0"
    if unchecked and mine[0] in watch.met:
        return [0] * watch.ranks
    device = _device(group)
    with watched(group, "the agreement of all ranks before an exchange", torch.device("cpu")) as wait:
        given = torch.tensor(mine, dtype=torch.int64, device=device)
        gathered = torch.empty(watch.ranks, 2, dtype=torch.int64, device=device)
        wait(dist.all_gather(list(gathered.unbind()), given, group=group, async_op=True))
        hashes, held = gathered.t().tolist()
        texts: list[Any] = [None] * watch.ranks
        if len(set(hashes)) > 1:
            dist.all_gather_object(texts, dict(facts), group=group)
    if len(set(hashes)) > 1:
        raise _disagreement(watch, texts)
    if unchecked:
        watch.met.add(mine[0])
    return held


def refuse(group: dist.ProcessGroup, error: PidslError) -> None:
    """Tell the other ranks of an error of this one alone, where they are about to agree: they raise what it says."""
    with suppress(PidslError):  # that of this rank is raised by who has it
        agreed(group, {REFUSED: str(error)}, 0)


def together(group: dist.ProcessGroup, make: Callable[[], T]) -> T:
    """What each rank of a group makes for itself; where one of them cannot, all raise its error.

    Args:
        group: whose ranks all call this, at the same place.
        make: called on every rank.

    Raises:
        PidslError: what it raised on the first rank where it did, on every rank.
        BackendError: a rank is gone, or has not come within the timeout of the group.
    """
    found: T | PidslError
    try:
        found = make()
    except PidslError as error:
        found = error
    failed = agreed(group, {}, int(isinstance(found, PidslError)))
    if any(failed):
        told(group, lambda: found, failed.index(1))
    assert not isinstance(found, PidslError)
    return found


def told(group: dist.ProcessGroup, make: Callable[[], T], by: int = 0) -> T:
    """What one rank of a group makes, for all of them: what each would make for itself might differ.

    Args:
        group: whose ranks all call this, at the same place.
        make: called on that rank; its result, or its error, is pickled.
        by: its number.

    Raises:
        PidslError: what it raised, on every rank.
        BackendError: a rank is gone, or has not come within the timeout of the group.
    """
    box: list[Any] = [None]
    if dist.get_rank(group) == by:
        try:
            box = [make()]
        except PidslError as error:
            box = [error]
    with watched(group, f"what rank {by} tells all others", torch.device("cpu")):
        dist.broadcast_object_list(box, dist.get_global_rank(group, by), group, _device(group))
    if isinstance(box[0], PidslError):
        raise box[0]
    found: T = box[0]
    return found


@contextmanager
def watched(group: dist.ProcessGroup, what: str, device: torch.device) -> Iterator[Wait]:
    """What is done inside is communication of a group; if it fails, the error says which rank is gone.

        with watched(group, "the exchange of keys", k.device) as wait:
            work = dist.all_to_all_single(..., group=group, async_op=True)
            wait(work)

    `wait` waits for what an operation with `async_op=True` gave, no longer than the timeout of the group, and
    ends early where another rank has failed. What is sent from a GPU is waited for by its stream alone, as always: a
    rank that dies on the way is found by the next agreement, or by the backend.

    Args:
        group: whose operations these are.
        what: they do, for the message.
        device: of the tensors that are sent.

    Raises:
        BackendError: for every error of the backend inside, a timeout too: it names the ranks that are not there any
            more, or never came. The group is of no use afterwards.
    """
    watch = _watch(group)
    began = time.monotonic()
    try:
        watch.introduce()
        yield lambda work: watch.wait(work, began) if device.type == "cpu" else work.wait()
    except (PidslError, torch.OutOfMemoryError):
        raise
    except RuntimeError as error:  # those of torch.distributed are too
        raise watch.loss(_reason(error), what) from error


class _Watch:
    """What one rank knows of its group, and tells it. It does not hold the group, whose weak key it is kept under."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.ranks, self.rank = dist.get_world_size(group), dist.get_rank(group)
        self.of_all, self.backend = dist.get_process_group_ranks(group), dist.get_backend(group)
        self.store = group.get_group_store()
        self.queued = _device(group).type != "cpu"  # all that the group does is queued on GPUs
        self.seconds = _timeout(group).total_seconds()
        self.grace = min(GRACE, self.seconds / 5)
        self.answer = 2 * self.grace  # seconds that the store may take to answer
        self.introduced = self.silent = False  # silent: the store does not answer any more
        self.met: set[int] = set()  # hashes of facts that were agreed on

    def introduce(self) -> None:
        """Say once which process this rank is: when it is gone, others can say it."""
        if not self.introduced:
            self.store.set(_here(self.rank), f"process {os.getpid()} on {platform.node()}")
            self.introduced = True

    def wait(self, work: dist.Work, began: float) -> None:
        """Until the work is done, has failed, or another rank has."""
        end = began + max(self.seconds / 2, self.seconds - 3 * self.grace)  # so that its end is told within the timeout
        while not self._done_soon(work):
            said = None if self.silent else _within(self.answer, self._said)
            self.silent = said is None
            if said:
                raise RuntimeError(said)
            if time.monotonic() > end:
                raise RuntimeError(f"timed out after {time.monotonic() - began:.1f} seconds")

    def _done_soon(self, work: dist.Work) -> bool:
        if self.queued:  # where waiting with a limit would end the group
            end = time.monotonic() + LOOK
            while not work.is_completed():
                if time.monotonic() > end:
                    return False
                time.sleep(LOOK / 1000)
            return bool(work.wait())
        try:
            return bool(work.wait(timedelta(seconds=LOOK)))
        except RuntimeError:  # of the work, or because that time is over
            if not work.is_completed():
                return False
        return bool(work.wait())

    def _said(self) -> str:
        return self.store.get(SAID).decode() if self.store.check([SAID]) else ""

    def loss(self, reason: str, what: str) -> BackendError:
        """The error that says who is not there; others are told on the way."""
        absent = None if self.silent else _within(self.answer + self.grace, lambda: self._absent(reason))
        expected = f"all {self.ranks} ranks of the group in the same operation, within its {self.seconds:g} seconds"
        where = f"{what}: {reason}"
        if absent is None:
            given = "the store of the group does not answer: the process that hosts it is gone"
            hint = "the log of global rank 0, which hosts the store unless torchrun does"
            return BackendError(given, expected, where, hint)
        if not absent:
            given = f"the backend {self.backend!r} failed, though all {self.ranks} ranks are there"
            return BackendError(given, expected, where, "the logs of all ranks: an earlier error of one of them")
        who = self.named(list(absent))
        known = "; ".join(sorted({text for text in absent.values() if text}))
        given = f"{who} died or did not come" + (f" ({known})" if known else "")
        hint = (
            f"the log of {who} first; the same calls on all ranks (an `if rank == 0:` around one of them ends like "
            "this); for ranks that are slow, init_process_group(timeout=...)"
        )
        return BackendError(given, expected, where, hint)

    def _absent(self, reason: str) -> dict[int, str]:
        """The ranks that leave no mark, and which processes they were."""
        self.store.set(_marked(self.rank), "")
        if not self.store.check([SAID]):
            self.store.set(SAID, f"{reason}, said {self.named([self.rank])}")
        end = time.monotonic() + self.grace
        while not self.store.check([_marked(rank) for rank in range(self.ranks)]) and time.monotonic() < end:
            time.sleep(LOOK / 2)
        gone = [rank for rank in range(self.ranks) if not self.store.check([_marked(rank)])]
        return {r: self.store.get(_here(r)).decode() if self.store.check([_here(r)]) else "" for r in gone}

    def named(self, ranks: Sequence[int]) -> str:
        """Ranks in words, with their numbers among all ranks where those are others."""
        s, of_all = "s" * (len(ranks) > 1), [self.of_all[rank] for rank in ranks]
        return f"rank{s} {_spans(ranks)}" + (f" (global rank{s} {_spans(of_all)})" if of_all != list(ranks) else "")


def _watch(group: dist.ProcessGroup) -> _Watch:
    found = _watches.get(group)
    if found is None:
        found = _watches[group] = _Watch(group)
    return found


def _here(rank: int) -> str:
    return f"pidsl/here/{rank}"


def _marked(rank: int) -> str:
    return f"pidsl/marked/{rank}"


def _within(seconds: float, question: Callable[[], T]) -> T | None:
    """What the store answers; None where it takes longer, or its host is gone."""
    answers: list[T] = []

    def ask() -> None:
        with suppress(RuntimeError):
            answers.append(question())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def _disagreement(watch: _Watch, texts: Sequence[Mapping[str, str]]) -> ArgumentError:
    """Which facts differ, who has which."""
    refused: dict[str, list[int]] = {}
    for rank, own in enumerate(texts):
        if REFUSED in own:
            refused.setdefault(own[REFUSED], []).append(rank)
    if refused:
        given = "; ".join(f"{watch.named(who)}: {text.splitlines()[0]}" for text, who in refused.items())
        hint = "what it says there; the same call on all ranks"
        return ArgumentError(given, "a call that every rank takes", "\n".join(refused), hint)
    lines = []
    for name in dict.fromkeys(name for own in texts for name in own):
        of: dict[str, list[int]] = {}
        for rank, own in enumerate(texts):
            of.setdefault(own.get(name, "nothing"), []).append(rank)
        if len(of) > 1:
            *fewer, (most, _) = sorted(of.items(), key=lambda item: len(item[1]))
            said = [f"{watch.named(who)} {'has' if len(who) == 1 else 'have'} {text}" for text, who in fewer]
            lines.append(f"{name}: {', '.join(said)}, the {'others' if len(texts) > 2 else 'other'} {most}")
    call = "the same call on every rank of a group"
    if len(lines) == 1:
        return ArgumentError(lines[0], "the same on all ranks", call, "the same arguments on all ranks")
    return ArgumentError(
        f"{len(lines)} things differ between ranks",
        "the same on all ranks",
        "\n".join(lines),
        "the same arguments on all ranks",
    )


def _spans(numbers: Sequence[int]) -> str:
    """Numbers, runs of them as first-last.

    >>> _spans([0, 1, 2, 5, 7, 8])
    '0-2, 5, 7-8'
    """
    spans: list[list[int]] = []
    for x in numbers:
        if spans and spans[-1][-1] == x - 1:
            spans[-1] = [spans[-1][0], x]
        else:
            spans.append([x])
    return ", ".join("-".join(map(str, span)) for span in spans)


def _reason(error: RuntimeError) -> str:
    """What the backend said, without where in its source."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^(\[[^\]]*\] )+", "", first).partition(". This is typically")[0]


def _device(group: dist.ProcessGroup) -> torch.device:
    """Where small tensors are sent from: the CPU, where a backend of the group takes them."""
    kinds = [pair.partition(":")[0] for pair in dist.get_backend_config(group).split(",")]
    return torch.device("cpu") if "cpu" in kinds else torch.device(kinds[0], torch.accelerator.current_device_index())


def _timeout(group: dist.ProcessGroup) -> timedelta:
    """After how long an operation of the group fails; torch's default where its backend does not say."""
    options = getattr(group._get_backend(_device(group)), "options", None)
    found: timedelta = getattr(options, "_timeout", default_pg_timeout)
    return found
