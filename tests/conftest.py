"""The tests see none of the caller's folders: `make test` exports CACHE_DIR and its like for the commands of users."""

from __future__ import annotations

import os

for _name in ("CACHE_DIR", "RUN_DIR", "DEMO_ROOT", "DATASETS", "TEACHONCE_INDEX"):
    os.environ.pop(_name, None)
