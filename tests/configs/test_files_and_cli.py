"""Atomic writes, the one-line errors of every command, and where overrides may stand on a command line."""

from __future__ import annotations

import errno
import os

import pytest

from configs.cli import Parser, run
from configs.errors import RequestError, RunError, printable
from configs.files import atomic_writer, fingerprint, write_atomic
from configs.stop import Stopped


def test_a_write_without_room_says_where(tmp_path):
    with pytest.raises(OSError, match="disk full") as caught, atomic_writer(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "disk full")
    assert caught.value.filename == str(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_remains(tmp_path):
    target = tmp_path / "a.json"
    write_atomic(target, "old")
    with pytest.raises(OSError, match="disk"), atomic_writer(target) as stream:
        stream.write(b"half of the n")
        raise OSError(errno.ENOSPC, "disk full")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_says_who_may_read_a_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "a.json", "new")
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_a_message_is_one_short_line_without_control_characters():
    text = str(RequestError("expected a,\nfound \x1b[31mred\r; " + "x" * 10_000 + "; do c"))
    assert text.startswith("expected a, found \\x1b[31mred ; xx") and text.endswith("x; do c") and len(text) < 3000 and text.isprintable()


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
        (RunError("a\x1b[31m\x00\r\u202ered\x85"), 1, "error: a\\x1b[31m\\x00 \\u202ered\\x85\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.bin"), 1, "free some space"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT, what is finished is kept; run the same command again to go on"),
        (Stopped(15, "a checkpoint after step 3"), 143, "stopped by SIGTERM, a checkpoint after step 3; run the same command again"),
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


def test_an_error_has_a_bounded_length_and_keeps_its_advice(capsys):
    def fail(arguments):
        raise RequestError(f"expected a, found {'x' * 10**6}; do c")

    assert run(fail, []) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: expected a, found xxx")
    assert line.endswith("xxx; do c\n")
    assert len(line) < 2020
    assert printable("caf\xe9\udce9") == "caf\xe9\\udce9"
    assert printable("ab" * 50, 100) == "ab" * 50
    assert len(printable("ab" * 51, 100)) <= 100


def test_success_is_zero():
    assert run(lambda arguments: None, []) == 0


def commands() -> Parser:
    """Commands like those of the rooms: options of one value, of none and of several, required and free arguments."""
    top = Parser(prog="x")
    parts = top.add_subparsers(dest="command", required=True)
    single = parts.add_parser("run")
    single.add_argument("--setting", required=True)
    single.add_argument("--teacher")
    single.add_argument("--force", action="store_true")
    single.add_overrides("changes")
    many = parts.add_parser("study")
    many.add_argument("settings", nargs="+")
    many.add_argument("--seeds", nargs="+", default=["0"])
    many.add_overrides("changes")
    parts.add_parser("report").add_argument("runs", nargs="+")
    return top


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("run --setting gt", {"overrides": []}),
        ("run a=1 --setting gt b=2 -- c=3 d=4", {"setting": "gt", "overrides": ["a=1", "b=2", "c=3", "d=4"]}),
        ("run --setting gt --force a=1", {"force": True, "overrides": ["a=1"]}),
        ("run --setting gt --teacher a=b.pth c=1", {"teacher": "a=b.pth", "overrides": ["c=1"]}),
        ("run --setting=gt --teacher=a=b.pth c=1", {"teacher": "a=b.pth", "overrides": ["c=1"]}),
        ("study gt a=1 ts --seeds 0 1 b=2", {"settings": ["gt", "ts"], "seeds": ["0", "1"], "overrides": ["a=1", "b=2"]}),
        ("report a=1 b", {"runs": ["a=1", "b"]}),
    ],
)
def test_overrides_stand_anywhere_but_are_no_value_of_an_option(line, wanted):
    options = vars(commands().parse_args(line.split()))
    assert {key: options[key] for key in wanted} == wanted


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run --setting gt foo", "unrecognized arguments: foo"),
        ("run --setting gt a=1 --seting ts", "unrecognized arguments: --seting"),
        ("run --setting gt -x=1", "unrecognized arguments: -x=1"),
        ("run --setting gt -- a=1 foo -x=1", "expected key=value behind --, found foo -x=1"),
        ("study gt -- ts", "expected key=value behind --, found ts"),
        ("study a=1", "the following arguments are required: settings;"),
        ("report a --out=b", "unrecognized arguments: --out=b"),
    ],
)
def test_a_word_that_is_no_override_is_named(line, message, capsys):
    with pytest.raises(SystemExit) as end:
        commands().parse_args(line.split())
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n")) == (2, 1)
    assert message in said


def test_the_help_lists_overrides_as_one_argument(capsys):
    with pytest.raises(SystemExit):
        commands().parse_args(["run", "--help"])
    said = capsys.readouterr().out
    assert "[key=value ...]" in said and "changes" in said
