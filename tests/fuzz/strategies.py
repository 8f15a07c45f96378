"""Inputs that are almost right: a whole one with some edits, or anything at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

STRANGE = (
    *(b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", "①".encode(), b"\x1b[31m", b"\r", b"\n\n", b" ", b"\t", b"'", b'"'),
    *(b"nan", b"-inf", b".inf", b".nan", b"1e308", b"1e400", b"-1", b"0", b"1_0", b"1:30", b"true", b"null", b"~"),
    *(b"0x" + b"f" * 5000, b"9" * 5000, b"1" * 30, b"a" * 300, b"[" * 300, b"{a: " * 60, b"\\ud800"),
    *(b"[]", b"{}", b"[[1]]", b"{a: 1}", b"- ", b"&a ", b"*a", b"<<: ", b"!!python/object:os.system ", b"!!set ", b"!!binary x"),
    *(b"2001-99-99", b"2001-01-01", b"..", b"/", b"/dev/zero", b"~root", b"${X", b"${HOME}"),
    *(b"=", b".", b",", b":", b"#", b"%", b"\\"),
)


class Edit(NamedTuple):
    """At a place (share of the length): so many bytes are replaced by others."""

    place: float
    removed: int
    new: bytes


_EDIT = st.builds(
    Edit,
    st.floats(0, 1),
    st.sampled_from((0, 0, 1, 2, 4, 8, 30, 10**6)),
    st.one_of(st.sampled_from(STRANGE), st.binary(max_size=4)),
)


def edited(whole: bytes, edits: Sequence[Edit]) -> bytes:
    """The content under the edits, one after the other."""
    for edit in edits:
        at = round(edit.place * len(whole))
        whole = whole[:at] + edit.new + whole[at + edit.removed :]
    return whole


def almost(*wholes: bytes) -> st.SearchStrategy[bytes]:
    """One of these contents under one to four edits; now and then any bytes."""
    some = st.builds(edited, st.sampled_from(wholes), st.lists(_EDIT, min_size=1, max_size=4))
    return st.one_of(some, some, some, st.binary(max_size=200))
