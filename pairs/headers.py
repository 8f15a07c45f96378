"""What the bytes of an image file say before anything is decoded."""

from __future__ import annotations

import io

_JPEG_START, _JPEG_SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
_JPEG_SIZES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # markers of a segment that states the size
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"


def truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG ends before its end marker. Bytes after the marker, which some cameras add, do no harm."""
    if content.startswith(_PNG_START):
        return _PNG_END not in content[-64:]
    if not content.startswith(_JPEG_START) or content.endswith(_JPEG_END):
        return False
    # an embedded preview has markers of its own, so the last end must follow the last start of a scan; neither occurs inside scan data
    return content.rfind(_JPEG_END) < content.rfind(_JPEG_SCAN)


def image_size(content: bytes) -> tuple[int, int]:
    """(width, height) that an image file claims; (0, 0) where it claims none."""
    if content.startswith(_PNG_START):
        return int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if content.startswith(_JPEG_START):
        return _jpeg_size(content)
    from PIL import Image  # knows every other form, at ten times the time

    # the limit is the caller's
    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.size
    except Exception:  # whatever a damaged header makes it raise
        return 0, 0


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Of a JPEG: of the first segment that states it."""
    place = 2
    while content[place : place + 1] == b"\xff" and place + 9 <= len(content):
        marker = content[place + 1]
        if marker in _JPEG_SIZES:
            return int.from_bytes(content[place + 7 : place + 9]), int.from_bytes(content[place + 5 : place + 7])
        # a segment's length counts itself; 0xff fills up
        place += 1 if marker == 0xFF else 2 + int.from_bytes(content[place + 2 : place + 4])
    return 0, 0
