"""The processes that the other tests of this folder run in are real ones, and a job that goes wrong says so."""

import os
import signal
import time

import gloo
import pytest
import torch
import torch.distributed as dist


def _sum_of_pids(group):
    mine = torch.tensor([os.getpid()])
    dist.all_reduce(mine, group=group)
    return os.getpid(), int(mine), dist.get_rank(group), dist.get_world_size(group), dist.get_backend(group)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_are_processes_that_talk(ranks):
    pids, sums, places, sizes, backends = zip(*gloo.run(ranks, _sum_of_pids), strict=True)
    assert len({*pids, os.getpid()}) == ranks + 1
    assert set(sums) == {sum(pids)}
    assert places == tuple(range(ranks))
    assert set(sizes) == {ranks} and set(backends) == {"gloo"}


def test_processes_are_kept():
    assert gloo.run(3, _sum_of_pids) == gloo.run(3, _sum_of_pids)


def _uneven(group, rows):
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    mine = torch.full((rows[rank] * ranks,), float(rank))
    got = torch.empty(sum(rows))
    dist.all_to_all_single(got, mine, rows, [rows[rank]] * ranks, group=group)
    return got


def test_arguments_and_results_are_values():
    expected = torch.tensor([0.0, 2.0, 2.0, 2.0])
    assert all(torch.equal(got, expected) for got in gloo.run(3, _uneven, [1, 0, 3]))


def _one_raises(group, place):
    if dist.get_rank(group) == place:
        raise ValueError(f"not on rank {place}")
    dist.barrier(group)


def test_what_a_rank_raises_is_raised_here_though_the_others_wait_for_it():
    began = time.monotonic()
    with pytest.raises(
        gloo.RankError, match=r"(?s)rank 1 of 2: raised.*_one_raises.*not on rank 1.*rank 0 of 2: did not"
    ):
        gloo.run(2, _one_raises, 1)
    assert time.monotonic() - began < 10
    assert len(gloo.run(2, _sum_of_pids)) == 2  # in new processes


def _sleeps(group):
    if dist.get_rank(group):
        time.sleep(100)


def test_a_job_that_hangs_is_killed_and_shows_where_it_was():
    began = time.monotonic()
    with pytest.raises(gloo.RankError, match=r"(?s)rank 1 of 2: did not return \(1 seconds\).*in _sleeps"):
        gloo.run(2, _sleeps, limit=1)
    assert time.monotonic() - began < 10


def _killed(group):
    if dist.get_rank(group) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return dist.get_world_size()


def test_a_rank_that_dies():
    with pytest.raises(gloo.RankError, match="rank 1 of 2: died with status -9"):
        gloo.run(2, _killed)
    assert gloo.fresh(3, _killed) == [3, gloo.Died(-9), 3]
