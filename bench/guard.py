"""Whether a measurement is slower than an earlier one: `python -m bench guard RESULT.json --reference EARLIER.json`.

Ratios of one run are compared, never times: another day and another load change both sides of a ratio alike. What got worse beyond the
tolerance is named. Ratios of other options (batch, size, precision ...) are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.cli import Parser
from configs.errors import RequestError, RunError

SAME = ("setting", "size", "batch", "height", "precision", "channels_last", "compile")
"""Options that change what is measured"""


def read(path: Path) -> dict[str, Any]:
    """What `python -m bench --json` wrote. RequestError for another file."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"{path}: expected the JSON of `python -m bench --json`, found none ({error}); measure first") from error
    if not isinstance(found, dict) or not _is_measurement(found):
        raise RequestError(f"{path}: expected the JSON of `python -m bench --json`, found other JSON; measure first")
    return found


def _is_measurement(found: dict[str, Any]) -> bool:
    sections = [found.get(key) for key in ("ratios", "options", "hardware", "versions")]
    if not all(isinstance(section, dict) for section in sections) or not {"processor", "threads", "gpu"} <= found["hardware"].keys():
        return False
    values = [ratio.get("value") if isinstance(ratio, dict) else None for ratio in found["ratios"].values()]
    return all(isinstance(value, int | float) and not isinstance(value, bool) and value > 0 for value in values)


def compare(now: dict[str, Any], reference: dict[str, Any], tolerance: float) -> tuple[list[str], list[str]]:
    """(a line for each ratio that both have, the names of those that got worse by more than the tolerance).

    RequestError: the options differ in what changes the work, or no ratio is in both.
    """
    differ = [f"{key} {now['options'].get(key)}, there {reference['options'].get(key)}" for key in SAME if _differs(key, now, reference)]
    if differ:
        raise RequestError(f"expected a run with the options of the reference, found {'; '.join(differ)}; measure with the same")
    both = [name for name in reference["ratios"] if name in now["ratios"]]
    if not both:
        raise RequestError("expected ratios that the reference has, found none; measure with --only as the reference was")
    lines, worse = [], []
    for name in both:
        before, after = reference["ratios"][name]["value"], now["ratios"][name]["value"]
        change = after / before - 1
        if change > tolerance:
            worse.append(name)
        verdict = "WORSE" if change > tolerance else "better" if change < -tolerance else "same"
        lines.append(f"{name:20} {after:8.3f}  reference {before:8.3f}  {change:+7.1%}  {verdict}")
    return lines, worse


def _differs(key: str, now: dict[str, Any], reference: dict[str, Any]) -> bool:
    return bool(now["options"].get(key) != reference["options"].get(key))


def main(arguments: Sequence[str], prog: str = "python -m bench guard") -> int:
    """The command line. RunError where a ratio got worse."""
    parser = Parser(prog=prog, description=__doc__)
    parser.add_argument("result", type=Path, help="what `python -m bench --json` wrote")
    parser.add_argument("--reference", type=Path, required=True, help="what it is compared with, of the same kind")
    parser.add_argument("--tolerance", type=float, default=0.1, help="share that a ratio may be larger (default: 0.1)")
    options = parser.parse_args(arguments)
    now, reference = read(options.result), read(options.reference)
    for name, of in (("reference", reference), ("now", now)):
        print(f"{name}: {of['hardware']['processor']}, {of['hardware']['threads']} threads, {of['hardware']['gpu'] or 'no GPU'};"
              f" torch {of['versions'].get('torch')}")  # fmt: skip
    lines, worse = compare(now, reference, options.tolerance)
    print("\n".join(lines))
    if worse:
        raise RunError(
            f"expected no ratio more than {options.tolerance:.0%} above the reference, found {', '.join(worse)};"
            " measure again on a quiet machine, then look for what slowed it down with --trace"
        )
    return 0
