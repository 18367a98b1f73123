"""Results of `bench.py conformance` as a table for the console and as Markdown for the README.

In: the dict that the bench writes as JSON. Out: a rich table, Markdown, the number of rows that fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from nouscoder_jax.bench.conformance.compare import TOLERANCE, is_failing, worst

NAMES = {
    "verl": "verl", "trl": "TRL", "openrlhf": "OpenRLHF", "skyrl": "SkyRL", "areal": "AReaL", "tunix": "tunix",
}  # fmt: skip
"""Libraries as they write themselves."""

_HEADS = ("value", "theirs", "|grad|", "theirs", "d value", "d grad", "cosine")


def num_failing(results: Mapping[str, Any]) -> int:
    """Rows that should agree and do not, or could not be run."""
    return sum(map(is_failing, results["rows"]))


def table(results: Mapping[str, Any]) -> Table:
    """A line a row: numbers of the first input, the worst differences over all inputs, as defined."""
    found = Table(title="conformance", title_justify="left")
    for head in ("objective", "library"):
        found.add_column(head, no_wrap=True)
    for head in _HEADS:
        found.add_column(head, justify="right", no_wrap=True)
    found.add_column("verdict", overflow="fold")
    for row in results["rows"]:
        failing = is_failing(row)
        told = row["verdict"] + (f": {_reason(row)}" if _reason(row) else "")
        cells = _numbers(row) if "defined" in row else ["-"] * len(_HEADS)
        found.add_row(row["objective"], NAMES[row["library"]], *cells, told, style="red" if failing else "")
    return found


def markdown(results: dict[str, Any]) -> str:
    """A line a row and library, with the largest differences over all inputs; footnotes below."""
    lines = [
        "| objective | library | their function | Δ value | Δ gradient | cosine | |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    previous = ""
    for row in results["rows"]:
        objective = "" if row["objective"] == previous else f"`{row['objective']}`"
        previous = row["objective"]
        shown = _shown(row)
        cells = [_small(worst(shown, name)) for name in ("value_difference", "gradient_difference")]
        cells.append(_cosine(worst(shown, "cosine")))
        told = row["verdict"] + (f" (as defined {_small(_before(row))})" if row.get("undone_differences") else "")
        told += f": {_reason(row)}" if _reason(row) else ""
        lines.append(f"| {objective} | {NAMES[row['library']]} | {row['theirs']} | {' | '.join(cells)} | {told} |")
    return "\n".join([*lines, "", *_footnotes(results)])


def _footnotes(results: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(
        f"{NAMES[name]} {next(iter(facts['versions'].values()))}"
        for name, facts in results["libraries"].items()
        if facts.get("versions")
    )
    stand_ins = "; ".join(
        f"{NAMES[name]}: {', '.join(facts['placeholders'])}"
        for name, facts in results["libraries"].items()
        if facts.get("placeholders")
    )
    not_run = "; ".join(f"{what}: {why}" for what, why in results["not_run"].items())
    return [
        f"Largest differences over {len(results['inputs'])} random inputs in float32, Δ gradient of an element; "
        f'"agrees" is at most {TOLERANCE:g}: of values absolute, relative above 1, of gradients relative to the '
        'largest element. "Agrees once undone": they define it as the sentence says, and with that put into ours '
        "it agrees; the differences shown are then those that remain, and in brackets that of the value before. "
        f"Their own code, as installed: {versions}.{_double(results)}",
        "",
        f"Not run: {not_run}.",
        "",
        "Imported beside a loss, never touched by it, and replaced by a placeholder (with (init): a package whose "
        f"`__init__` is not run): {stand_ins}.",
    ]


def _double(results: Mapping[str, Any]) -> str:
    """The largest differences of ours in float32 from those that also ran in float64."""
    rows = [row["float64"] for row in results["rows"] if row.get("float64", {}).get("verdict", "").startswith("agrees")]
    if not rows:
        return ""
    names = ("value_difference_scaled", "gradient_difference_relative")
    found = [max(value for row in rows if (value := worst(_shown(row), name)) is not None) for name in names]
    return (
        f" {len(rows)} rows also ran with their side in float64: there the tolerances are met with "
        f"{_small(found[0])} (values) and {_small(found[1])} (gradients)."
    )


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What remains: of a row with a stated difference, after it is undone."""
    return row.get("undone_differences") or row.get("defined") or {}


def _before(row: Mapping[str, Any]) -> float | None:
    """Their value's difference before it is undone."""
    return worst(row["defined"], "value_difference")


def _reason(row: Mapping[str, Any]) -> str:
    return row.get("failure") or row["difference"]


def _numbers(row: Mapping[str, Any]) -> list[str]:
    first = next(iter(row["defined"].values()))
    names = ("value_ours", "value_theirs", "gradient_norm_ours", "gradient_norm_theirs")
    cells = ["-" if first[name] is None else f"{first[name]:.6f}" for name in names]
    cells += [_small(worst(row["defined"], name)) for name in ("value_difference", "gradient_difference")]
    return [*cells, _cosine(worst(row["defined"], "cosine"))]


def _small(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}"


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"
