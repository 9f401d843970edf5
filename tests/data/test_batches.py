from __future__ import annotations

import pytest
import torch

from indiseek.data import OrderedBatches, RowBatches


@pytest.mark.parametrize(("n_rows", "batch_size"), [(10, 3), (12, 4), (5, 8), (7, 7)])
def test_each_row_comes_at_most_once_an_epoch_in_batches_of_one_size(n_rows, batch_size):
    batches = RowBatches(n_rows, batch_size=batch_size, seed=0)
    epoch = [rows for (rows,) in batches]
    assert len(epoch) == len(batches) == n_rows // min(batch_size, n_rows)
    assert {len(rows) for rows in epoch} == {min(batch_size, n_rows)}
    every = torch.cat(epoch)
    assert len(every.unique()) == len(every)
    assert every.min() >= 0 and every.max() < n_rows


def test_left_out_rows_differ_between_epochs():
    batches = RowBatches(10, batch_size=4, seed=0)
    left_out = {frozenset(range(10)) - {int(i) for (rows,) in batches for i in rows} for _ in range(20)}
    assert all(len(rows) == 2 for rows in left_out)
    assert frozenset.union(*left_out) == frozenset(range(10))


def test_extra_batches_are_orders_of_their_own():
    batches = RowBatches(60, batch_size=20, n_extra=2, seed=0)
    epoch = list(batches)
    assert all(len(rows) == 3 for rows in epoch)
    for which in range(3):
        assert torch.cat([rows[which] for rows in epoch]).sort().values.tolist() == list(range(60))
    orders = [torch.cat([rows[which] for rows in epoch]).tolist() for which in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_seed_gives_the_orders_and_each_epoch_a_new_one():
    def epochs(seed: int) -> list[list[int]]:
        batches = RowBatches(30, batch_size=10, seed=seed)
        return [torch.cat([rows for (rows,) in batches]).tolist() for _ in range(2)]

    assert epochs(3) == epochs(3)
    assert epochs(3) != epochs(4)
    first, second = epochs(3)
    assert first != second


def test_the_users_random_state_is_left_alone():
    before = torch.get_rng_state()
    list(RowBatches(30, batch_size=10, n_extra=1, seed=0))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("n_rows", "batch_size"), [(10, 3), (11, 4), (5, 8), (513, 512)])
def test_held_out_rows_come_in_order_in_pieces_of_nearly_one_size(n_rows, batch_size):
    batches = OrderedBatches(n_rows, batch_size=batch_size)
    pieces = list(batches)
    assert len(pieces) == len(batches)
    assert torch.cat(pieces).tolist() == list(range(n_rows))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) <= batch_size
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("n_rows", "batch_size", "world_size"), [(30, 8, 2), (30, 10, 3), (31, 7, 2), (5, 8, 2)])
def test_processes_have_equal_contiguous_shares_of_the_same_batches(n_rows, batch_size, world_size):
    size = min(batch_size, n_rows) // world_size * world_size
    whole = list(RowBatches(n_rows, batch_size=size, n_extra=1, seed=4))
    shares = [
        list(RowBatches(n_rows, batch_size=batch_size, n_extra=1, seed=4, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert all(len(share) == len(whole) for share in shares)
    for batch, *parts in zip(whole, *shares, strict=True):
        for which in range(2):
            assert torch.equal(torch.cat([part[which] for part in parts]), batch[which])
            assert {len(part[which]) for part in parts} == {size // world_size}


def test_orders_go_on_from_a_state():
    batches = RowBatches(30, batch_size=10, n_extra=1, seed=0)
    list(batches)
    state = batches.state
    later = [torch.stack(rows) for _ in range(2) for rows in batches]
    again = RowBatches(30, batch_size=10, n_extra=1, seed=5)
    again.state = state
    assert all(torch.equal(a, torch.stack(b)) for a, b in zip(later, [r for _ in range(2) for r in again], strict=True))
