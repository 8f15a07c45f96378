"""Where a cache lies: a path of this machine, or an address in a bucket of an S3-compatible object store."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from configs.errors import RequestError

_S3 = re.compile(r"s3://([A-Za-z0-9][A-Za-z0-9._-]{1,254})(?:/(.*))?")


@dataclass(frozen=True, order=True)
class Address:
    """s3://bucket/key, used like a path."""

    bucket: str
    key: str = ""
    """names with slashes between them; empty: the bucket itself"""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}".rstrip("/")

    def __truediv__(self, name: str) -> Address:
        return Address(self.bucket, f"{self.key}/{name}".strip("/"))

    @property
    def name(self) -> str:
        """The last name."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> Address:
        """Without the last name."""
        return Address(self.bucket, self.key.rpartition("/")[0])

    def resolve(self) -> Address:
        """It is absolute as it is."""
        return self


Location = Path | Address


def location(text: str | Path | Address) -> Location:
    """What a text means. RequestError: no bucket is named, `..` stands in its key, or it is no path."""
    if isinstance(text, Address):
        return text
    if not str(text).startswith("s3:"):
        try:
            os.fsencode(text)
        except ValueError:
            raise RequestError(f"expected a path, found {str(text)!r:.100}, which no file can have; correct it") from None
        return Path(text)
    text = str(text)
    found = _S3.fullmatch(text)
    names = (found[2] or "").strip("/").split("/") if found else []
    if found is None or any(name in (".", "..") for name in names):
        raise RequestError(f"{text}: expected s3://BUCKET/PREFIX, found another form; correct the address")
    return Address(found[1], "/".join(name for name in names if name))
