"""Ranks that differ, die, or never come: every other rank says so, names them, and is done within the timeout."""

# follows the hints of pidsl/distributed/running/agree.py: group_of, loss, _disagreement

import os
import signal
import time

import gloo
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh

from pidsl.distributed.running.agree import agreed, group_of, watched
from pidsl.errors import ArgumentError, BackendError

CPU = torch.device("cpu")
FACTS = {"pattern": "window(3) & causal", "n": "100", "dtype": "bfloat16", "kv_heads": "8"}
TIMEOUT = 5.0  # seconds, of the groups in which ranks die


def _agree(group, facts, rows):
    """What `agreed` says, and then what it says when all agree."""
    rank = dist.get_rank(group)
    try:
        found = agreed(group, facts[rank], rows[rank])
    except ArgumentError as error:
        found = str(error)
    return found, agreed(group, FACTS, rank)


@pytest.mark.parametrize("ranks", [1, 3, 8])
def test_each_rank_learns_the_rows_of_all(ranks):
    rows = [7 * rank % 5 for rank in range(ranks)]
    assert gloo.run(ranks, _agree, [FACTS] * ranks, rows) == [(rows, list(range(ranks)))] * ranks


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("pattern", "causal", "pattern: rank 2 has causal, the others window(3) & causal"),
        ("n", "101", "n: rank 2 has 101, the others 100"),
        ("dtype", "float32", "dtype: rank 2 has float32, the others bfloat16"),
        ("kv_heads", "4", "kv_heads: rank 2 has 4, the others 8"),
    ],
)
def test_the_rank_that_differs_is_named_on_all_ranks(name, text, said):
    facts = [FACTS, FACTS, {**FACTS, name: text}]
    expected = f"{said}\n  expected: the same on all ranks\n  where: the same call on every rank of a group\n"
    expected += "  try: the same arguments on all ranks"
    assert gloo.run(3, _agree, facts, [1, 1, 1]) == [(expected, [0, 1, 2])] * 3


def test_several_things_differ():
    facts = [FACTS, {**FACTS, "n": "7", "seed": "1"}, {**FACTS, "n": "7", "seed": "1"}, {**FACTS, "n": "8"}]
    for said, after in gloo.run(4, _agree, facts, [1] * 4):
        assert said.startswith("2 things differ between ranks")
        assert "n: rank 0 has 100, rank 3 has 8, the others 7\n" in said
        assert "seed: ranks 0, 3 have nothing, the others 1\n" in said
        assert after == [0, 1, 2, 3]


def test_facts_have_no_order():
    backward = dict(reversed(FACTS.items()))
    assert gloo.run(2, _agree, [FACTS, backward], [1, 1]) == [([1, 1], [0, 1])] * 2


values = st.fixed_dictionaries(
    {"pattern": st.sampled_from("pq"), "size": st.sampled_from("12")}, optional={"seed": st.just("0")}
)


@given(st.integers(1, 8).flatmap(lambda ranks: st.lists(values, min_size=ranks, max_size=ranks)), st.data())
@settings(max_examples=settings.default.max_examples // 2)
def test_any_facts_agree_where_they_are_equal(facts, data):
    ranks = len(facts)
    rows = data.draw(st.lists(st.integers(0, 2**40), min_size=ranks, max_size=ranks))
    for found, after in gloo.run(ranks, _agree, facts, rows):
        assert after == list(range(ranks))
        if all(own == facts[0] for own in facts):
            assert found == rows
            continue
        for name in ("pattern", "size", "seed"):
            differs = len({own.get(name) for own in facts}) > 1
            assert (f"{name}: rank" in found) == differs


def _counted(group, checked):
    os.environ["PIDSL_CHECK_VALUES"] = checked
    gathers, real = 0, dist.all_gather

    def counted(*args, **options):
        nonlocal gathers
        gathers += 1
        return real(*args, **options)

    dist.all_gather = counted
    try:
        found = [agreed(group, facts, rows) for facts in (FACTS, {}, FACTS, {}) for rows in (5, None, 5, None)]
    finally:
        dist.all_gather = real
        del os.environ["PIDSL_CHECK_VALUES"]
    return gathers, found


def test_without_checks_each_signature_is_agreed_on_once():
    """But for rows: others may have other ones, though this rank has the same."""
    found = [[rows] * 2 for _ in range(4) for rows in (5, 0, 5, 0)]
    assert gloo.fresh(2, _counted, "1") == [(16, found)] * 2
    assert gloo.fresh(2, _counted, "0") == [(10, found)] * 2


# -- ranks that are gone -----------------------------------------------------------------------------------------


def _told(act, *args):
    """What a rank is told, and after how many seconds."""
    began = time.monotonic()
    try:
        act(*args)
    except BackendError as error:
        return str(error), time.monotonic() - began
    return None


def _without(group, victim, how):
    """All ranks agree once; then one of them is gone, and the others go on."""
    rank = dist.get_rank(group)
    agreed(group, FACTS, 1)
    if rank == victim:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(TIMEOUT)
        return None
    return _told(agreed, group, FACTS, 1)


@pytest.mark.parametrize("how", ["dies", "never comes"])
def test_a_rank_that_is_gone_is_named_by_all_others(how):
    said = gloo.fresh(4, _without, 2, how, timeout=TIMEOUT)
    assert said.pop(2) == (gloo.Died(-9) if how == "dies" else None)
    for text, seconds in said:
        assert text.startswith("rank 2 died or did not come (process ")
        assert "expected: all 4 ranks of the group in the same operation, within its 5 seconds" in text
        assert "where: the agreement of all ranks before an exchange: " in text
        assert "try: the log of rank 2 first" in text
        assert seconds < (2.5 if how == "dies" else TIMEOUT)


def test_the_rank_that_hosts_the_store_dies():
    said = gloo.fresh(4, _without, 0, "dies", timeout=TIMEOUT)
    assert said[0] == gloo.Died(-9)
    for text, seconds in said[1:]:
        assert text.startswith("the store of the group does not answer: the process that hosts it is gone")
        assert "try: the log of global rank 0, which hosts the store unless torchrun does" in text
        assert seconds < TIMEOUT


def _stopped(group):
    """The host of the store stops without a word, as when a machine loses its power."""
    rank = dist.get_rank(group)
    pids = [None] * dist.get_world_size(group)
    dist.all_gather_object(pids, os.getpid(), group=group)
    agreed(group, FACTS, 1)
    if rank == 0:
        os.kill(os.getpid(), signal.SIGSTOP)
        return None
    told = _told(agreed, group, FACTS, 1)
    if rank == 1:
        os.kill(pids[0], signal.SIGKILL)
    return told


def test_the_host_of_the_store_falls_silent():
    said = gloo.fresh(3, _stopped, timeout=TIMEOUT)
    assert said[0] == gloo.Died(-9)
    assert all("the store of the group does not answer" in text and seconds < TIMEOUT for text, seconds in said[1:])


def _halfway(group, victim):
    """One rank dies in the middle of an exchange."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    agreed(group, FACTS, 1)
    if rank == victim:
        dist.send(torch.zeros(1), (rank + 1) % ranks)
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == (victim + 1) % ranks:
        dist.recv(torch.zeros(1), victim)

    def exchange():
        with watched(group, "the exchange of keys", CPU) as wait:
            got, given = torch.empty(ranks * 1000), torch.zeros(ranks * 1000)
            wait(dist.all_to_all_single(got, given, group=group, async_op=True))

    return _told(exchange)


def test_a_rank_dies_during_an_exchange():
    said = gloo.fresh(3, _halfway, 1, timeout=TIMEOUT)
    assert said.pop(1) == gloo.Died(-9)
    for text, seconds in said:
        assert text.startswith("rank 1 died or did not come (process ")
        assert "where: the exchange of keys: " in text and seconds < TIMEOUT


def _meshed(group):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
    own = mesh["cp"].get_group()
    agreed(own, FACTS, 1)
    if dist.get_rank(group) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return _told(agreed, own, FACTS, 1)


def test_in_a_mesh_ranks_have_both_their_numbers_and_other_groups_go_on():
    *others, told, died = gloo.fresh(4, _meshed, timeout=TIMEOUT)
    assert others == [None, None] and died == gloo.Died(-9)
    assert told[0].startswith("rank 1 (global rank 3) died or did not come (process ")


def _late(group, seconds):
    for rank in range(dist.get_world_size(group)):
        if rank == dist.get_rank(group):
            time.sleep(seconds)
        agreed(group, FACTS, 1)
    return True


def test_ranks_that_are_slow_are_waited_for():
    assert gloo.fresh(2, _late, 0.5, timeout=TIMEOUT) == [True, True]


class _DoneWhenItIsTooLate:
    """Work that ends between the end of a wait and the question whether it has ended."""

    def __init__(self):
        self.done = False

    def wait(self, timeout=None):
        if not self.done:
            self.done = True
            raise RuntimeError("Operation timed out!")
        return True

    def is_completed(self):
        return self.done


def _waits(group):
    with watched(group, "the exchange of keys", CPU) as wait:
        wait(_DoneWhenItIsTooLate())
    return True


def test_work_that_ends_just_then_has_not_failed():
    assert gloo.run(1, _waits) == [True]


def _fails(group, error):
    with watched(group, "the exchange of keys", CPU):
        raise error


def _raised(group, error):
    try:
        _fails(group, error)
    except Exception as found:
        return type(found).__name__, str(found)


def test_an_error_of_the_backend_on_all_ranks_names_none():
    for name, text in gloo.fresh(2, _raised, RuntimeError("[a/b.cc:7] no more sockets. This is typically bad")):
        assert name == "BackendError"
        assert text.startswith("the backend 'gloo' failed, though all 2 ranks are there")
        assert "where: the exchange of keys: no more sockets\n" in text


@pytest.mark.parametrize("error", [ValueError("mine"), BackendError("mine"), torch.OutOfMemoryError("mine")])
def test_other_errors_pass(error):
    assert gloo.run(2, _raised, error) == [(type(error).__name__, "mine")] * 2


def _polled(group, how):
    """On a group that queues all it does on GPUs, as NCCL, whose work cannot be waited for with a limit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dist, "get_backend_config", lambda group: "cuda:nccl")
        patched.setattr(torch.accelerator, "current_device_index", lambda: 0)
        with watched(group, "what it is first used for", CPU):
            pass
    dist.barrier(group)
    if dist.get_rank(group) == 1:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.3)
    return _told(agreed, group, FACTS, 1)


def test_work_of_gpus_is_asked_whether_it_is_done():
    assert gloo.fresh(2, _polled, "is slow", timeout=TIMEOUT) == [None, None]
    (text, seconds), _ = gloo.fresh(2, _polled, "dies", timeout=TIMEOUT)
    assert text.startswith("rank 1 died or did not come (process ") and seconds < TIMEOUT


# -- groups --------------------------------------------------------------------------------------------------------


def _groups(group):
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "cp"))
    assert group_of(None, "here") is dist.group.WORLD
    assert group_of(group, "here") is group
    assert group_of(mesh["cp"], "here") is mesh["cp"].get_group()
    said = []
    for wrong in (mesh, "cp"):
        try:
            group_of(wrong, "here")
        except ArgumentError as error:
            said.append(str(error))
    return said


def test_groups():
    for of_mesh, other in gloo.fresh(4, _groups):
        assert of_mesh.startswith("a mesh of 2 dimensions") and 'try: mesh["cp"]' in of_mesh
        assert other.startswith("group: str")


def test_no_group():
    with pytest.raises(ArgumentError, match=r"(?s)no process group.*init_process_group\(\)"):
        group_of(None, "here")
