from __future__ import annotations

import torch

from indiseek.data import CellTensors


def test_take_picks_the_same_rows_of_every_tensor():
    features = (torch.arange(10.0)[:, None], torch.arange(20.0).reshape(10, 2))
    batch = CellTensors(features, (torch.arange(10.0)[:, None] * 100,))
    rows = torch.tensor([7, 0, 7])
    taken = batch.take(rows)
    assert taken.n_cells == 3
    assert taken.features[0].ravel().tolist() == [7, 0, 7]
    assert taken.features[1].tolist() == [[14, 15], [0, 1], [14, 15]]
    assert taken.condition[0].ravel().tolist() == [700, 0, 700]


def test_a_batch_without_shared_codes_stays_without():
    batch = CellTensors((torch.zeros(4, 2), torch.zeros(4, 3)))
    assert batch.take(torch.tensor([0])).condition == ()
    assert batch.to(torch.device("cpu")).n_cells == 4
