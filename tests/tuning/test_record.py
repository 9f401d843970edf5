"""The file of finished candidates."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

from indiseek.data import Split
from indiseek.tuning import FILE_NAME, Record, checksum, fingerprint_of_data

FINGERPRINT = {"seed": 0, "split": (1, 2)}


def filled(directory) -> Record:
    record = Record(directory, FINGERPRINT)
    record.add({"n": 4, "a": 0.1}, {"x": 1 / 3})
    record.add({"n": 6, "a": 0.1}, {"x": 2.0})
    return record


def test_what_was_added_is_found_again_whatever_the_order_of_the_keys(tmp_path):
    filled(tmp_path / "new" / "folder")
    again = Record(tmp_path / "new" / "folder", FINGERPRINT)
    assert again.get({"a": 0.1, "n": 4}) == {"x": 1 / 3}
    assert again.get({"n": 6, "a": 0.1}) == {"x": 2.0}
    assert again.get({"n": 8, "a": 0.1}) is None


def test_without_a_directory_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert filled(None).get({"n": 4, "a": 0.1}) == {"x": 1 / 3}
    assert not list(tmp_path.iterdir())


def test_one_json_object_a_line_the_fingerprint_first(tmp_path):
    filled(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert lines[0] == {"fingerprint": {"seed": 0, "split": [1, 2]}}
    assert lines[1:] == [
        {"candidate": {"n": 4, "a": 0.1}, "found": {"x": 1 / 3}},
        {"candidate": {"n": 6, "a": 0.1}, "found": {"x": 2.0}},
    ]


@pytest.mark.parametrize("cut", [1, 5])
def test_a_truncated_last_line_is_ignored_with_a_warning_and_the_file_goes_on(tmp_path, log, cut):
    filled(tmp_path)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-cut])
    record = Record(tmp_path, FINGERPRINT)
    assert "last line" in log.text and "incomplete and ignored" in log.text
    assert record.get({"n": 4, "a": 0.1}) == {"x": 1 / 3}
    assert record.get({"n": 6, "a": 0.1}) is None
    record.add({"n": 6, "a": 0.1}, {"x": 3.0})
    log.clear()
    assert Record(tmp_path, FINGERPRINT).get({"n": 6, "a": 0.1}) == {"x": 3.0}
    assert not log.text


def test_a_truncated_first_line_begins_anew(tmp_path, log):
    (tmp_path / FILE_NAME).write_text('{"fingerpr')
    Record(tmp_path, FINGERPRINT).add({"n": 1}, {"x": 1.0})
    assert "incomplete" in log.text
    assert Record(tmp_path, FINGERPRINT).get({"n": 1}) == {"x": 1.0}


def test_another_fingerprint_is_refused_and_the_file_left_alone(tmp_path):
    filled(tmp_path)
    before = (tmp_path / FILE_NAME).read_bytes()
    message = r"expected the results of the same data and settings in .*, got others that differ in \['seed'\]; give an"
    with pytest.raises(ValueError, match=message):
        Record(tmp_path, FINGERPRINT | {"seed": 1})
    assert (tmp_path / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize("line", ["no json", "{]"])
def test_a_damaged_file_is_refused(tmp_path, line):
    filled(tmp_path)
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match="expected one JSON object on each line of .*; delete it to begin anew"):
        Record(tmp_path, FINGERPRINT)


def test_checksum_tells_contents_apart():
    x = np.arange(6.0).reshape(2, 3)
    everything = [
        [x],
        [x.reshape(3, 2)],
        [x.astype(np.float32)],
        [x + 1],
        [sparse.csr_matrix(x)],
        ["ab", "c"],
        ["a", "bc"],
        ["abc"],
    ]
    assert len({checksum(parts) for parts in everything}) == len(everything)
    assert checksum([x]) == checksum([np.asfortranarray(x)])


def test_fingerprint_of_data_reads_training_and_validation_cells_only():
    x = sparse.csr_matrix(np.arange(20.0).reshape(5, 4))
    split = Split(np.array([0, 1]), np.array([2]), np.array([3, 4]))

    def fingerprint(row: int | None = None, names: str = "abcd") -> dict:
        changed = x.toarray()
        if row is not None:
            changed[row] += 1
        return fingerprint_of_data({"rna": sparse.csr_matrix(changed)}, {"rna": list(names)}, split)

    assert fingerprint(3) == fingerprint(4) == fingerprint()
    for row in (0, 1, 2):
        assert fingerprint(row)["values"] != fingerprint()["values"]
    assert fingerprint(names="abdc")["features"] != fingerprint()["features"]
    assert fingerprint()["n_cells"] == 5
