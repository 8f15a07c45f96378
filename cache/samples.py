"""Some crops of a cache, for whoever needs pictures of its kind and knows nothing of caches (`configs.hooks`)."""

from __future__ import annotations

from cache.address import location
from cache.store import Cache


def crops(path: str, most: int) -> list[bytes]:
    """The JPEG files of at most `most` test crops, evenly spread over the pairs. RequestError: no cache; RunError: not written yet."""
    cache = Cache.open(location(path)).check_before_use()
    return [cache.read_crops(pair, pair + 1)[1][0].tobytes() for pair in range(0, cache.count, -(-cache.count // most))]
