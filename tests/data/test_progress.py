from __future__ import annotations

import sys

import pytest

from indiseek.data import _progress, progress, watched


def test_where_nothing_moves_there_is_a_line_for_each_tenth(capsys):
    with progress(total=200, desc="stage shared", unit="epoch") as bar:
        for i in range(200):
            bar.set_postfix_str(f"loss {i}")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "stage shared: 20/200 epochs, loss 19" and lines[-1] == "stage shared: 200/200 epochs, loss 199"


def test_what_ends_early_says_where_it_ended(capsys):
    bar = progress(most=4267, desc="stage shared", unit="epoch")
    for _ in range(56):
        bar.update()
    assert capsys.readouterr().err == ""
    bar.total = bar.n
    bar.refresh()
    bar.close()
    assert capsys.readouterr().err == "stage shared: 56/56 epochs\n"


@pytest.mark.parametrize("initial", [0, 30])
def test_a_fit_that_goes_on_begins_where_it_stood(capsys, initial):
    with progress(total=100, initial=initial, desc="fit", unit="epoch") as bar:
        assert capsys.readouterr().err == (f"fit: {initial}/100 epochs\n" if initial else "")
        bar.update(70)
    assert capsys.readouterr().err == f"fit: {initial + 70}/100 epochs\n"


def test_a_terminal_has_a_bar_and_nothing_is_written_where_it_is_not_wanted(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress(total=2, desc="fit", unit="epoch") as bar:
        bar.update(2)
    assert "\r" in capsys.readouterr().err
    with progress(total=2, desc="fit", unit="epoch", disable=True) as bar:
        bar.update(2)
    assert capsys.readouterr().err == ""


def test_what_is_soon_done_says_nothing_and_what_takes_longer_does(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(_progress.time, "monotonic", lambda: now[0])
    assert list(watched(range(20), desc="certify", unit="check")) == list(range(20))
    assert capsys.readouterr().err == ""
    for _ in watched(range(20), desc="certify", unit="check"):
        now[0] += 0.5
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "certify: 4/20 checks" and lines[-1] == "certify: 20/20 checks" and len(lines) == 9
    list(watched(range(20), desc="certify", unit="check", disable=True))
    assert capsys.readouterr().err == ""
