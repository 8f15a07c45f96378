"""The file that changes in one step, against a plain one."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest

from cache.journal import Transaction, journal_of, recover


@pytest.mark.parametrize("seed", range(6))
def test_a_transaction_behaves_as_a_file(tmp_path, seed):
    random = np.random.default_rng(seed)
    path, old = tmp_path / "file", random.bytes(int(random.integers(0, 20000)))
    path.write_bytes(old)
    plain, changed = io.BytesIO(old), Transaction(path)
    for _ in range(60):
        at, size = int(random.integers(0, 30000)), int(random.integers(0, 6000))
        what = random.integers(0, 3)
        assert plain.seek(at) == changed.seek(at)
        if what == 0:
            assert plain.read(size) == changed.read(size)
        else:
            data = random.bytes(size)
            assert plain.write(data) == changed.write(memoryview(data))
        assert plain.tell() == changed.tell()
        assert plain.seek(0, io.SEEK_END) == changed.seek(0, io.SEEK_END)
    assert path.read_bytes()[: len(old)] == old
    if seed % 2:
        changed.abandon()
        assert path.read_bytes() == old
    else:
        changed.truncate(plain.truncate(int(random.integers(0, plain.tell()))))
        changed.commit()
        assert path.read_bytes() == plain.getvalue()
    assert os.listdir(tmp_path) == ["file"]


def test_a_journal_is_applied_as_often_as_it_takes(tmp_path, monkeypatch):
    path, old = tmp_path / "file", bytes(10000)
    path.write_bytes(old)
    change = Transaction(path)
    change.seek(5000)
    change.write(b"new" * 2000)
    with monkeypatch.context() as at, pytest.raises(RuntimeError, match="killed"):
        at.setattr("cache.journal.recover", lambda path: (_ for _ in ()).throw(RuntimeError("killed")))
        change.commit()
    journal = journal_of(path).read_bytes()
    assert path.read_bytes()[:10000] == old
    for _ in range(2):
        journal_of(path).write_bytes(journal)
        recover(path)
        assert path.read_bytes() == bytes(5000) + b"new" * 2000
        assert not journal_of(path).exists()
    recover(path)


def test_what_lies_beyond_the_content_is_cut_off(tmp_path):
    (tmp_path / "file").write_bytes(b"content" + b"remains")
    change = Transaction(tmp_path / "file", 7)
    assert change.read() == b"content"
    change.write(b"!")
    change.commit()
    assert (tmp_path / "file").read_bytes() == b"content!"
