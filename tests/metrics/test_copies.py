from __future__ import annotations

import numpy as np

from indiseek.metrics._copies import copies, seen_before


def test_all_but_one_of_each_group_are_copies():
    rng = np.random.default_rng(0)
    cells = rng.standard_normal((400, 20))
    # Rounding of another batch does not hide a copy; a cell that is only close is none.
    table = np.vstack([cells, cells[:30] * (1 + 1e-7), cells[:10], cells[30:40] + 0.01])
    found = copies(table)
    assert found.sum() == 40
    # Each cell stays once.
    kept = table[~found]
    for cell in cells:
        assert (np.abs(kept - cell).max(axis=1) < 1e-4).sum() == 1


def test_copies_of_earlier_cells():
    rng = np.random.default_rng(1)
    earlier, table = rng.standard_normal((300, 5)), rng.standard_normal((200, 5))
    table[[3, 70, 71]] = earlier[[10, 20, 20]]
    assert np.flatnonzero(seen_before(table, earlier)).tolist() == [3, 70, 71]
    assert not seen_before(earlier[:50], table[:3]).any()
    assert not copies(earlier).any()
