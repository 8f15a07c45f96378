"""Atomic writes, and the one-line errors of every command."""

from __future__ import annotations

import errno

import pytest

from configs.cli import run
from configs.errors import RequestError, RunError
from configs.files import atomic_writer, fingerprint, write_atomic


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path):
    target = tmp_path / "a.json"
    write_atomic(target, "old")
    with pytest.raises(OSError, match="disk"), atomic_writer(target) as stream:
        stream.write(b"half of the n")
        raise OSError(errno.ENOSPC, "disk full")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_fingerprint_ignores_key_order_and_sees_every_value():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RequestError("expected a, found b; do c"), 2, "error: expected a, found b; do c\n"),
        (RunError("two\nlines"), 1, "error: two lines\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), 1, "free some space"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_have_their_code(error, code, text, capsys):
    def main(arguments):
        raise error

    assert run(main, []) == code
    printed = capsys.readouterr().err
    assert text in printed and printed.count("\n") == 1
    assert run(main, ["--debug"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_success_is_zero():
    assert run(lambda arguments: None, []) == 0
