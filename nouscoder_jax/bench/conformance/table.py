"""Results of `bench.py conformance` as a table for the console and as Markdown for the README.

In: the dict that the bench writes as JSON. Out: a `Report`, Markdown, the number of rows that fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nouscoder_jax.bench.conformance.compare import TOLERANCE, is_failing
from nouscoder_jax.bench.results import Report, markdown_table

NAMES = {
    "verl": "verl", "trl": "TRL", "openrlhf": "OpenRLHF", "skyrl": "SkyRL", "areal": "AReaL", "tunix": "tunix",
}  # fmt: skip
"""Libraries as they write themselves."""


def num_failing(content: Mapping[str, Any]) -> int:
    """Rows that should agree and do not, or could not be run."""
    return sum(map(is_failing, content["rows"]))


def report(content: Mapping[str, Any]) -> Report:
    """A row an objective and library: the largest differences over all inputs, as defined."""
    rows = []
    for row in content["rows"]:
        cells = [row["objective"], NAMES[row["library"]], *_figures(row.get("defined", {}))]
        rows.append([*cells, row["verdict"] + (f": {_reason(row)}" if _reason(row) else "")])
    num_rows, failing = len(content["rows"]), num_failing(content)
    notes = [f"not run: {what}: {why}" for what, why in content["not_run"].items()]
    names = ("seed", "tolerance", "inputs", "libraries", "not_run", "rows")
    facts = {name: value for name, value in content.items() if name not in names}
    return Report(
        bench="conformance", facts=facts, load_matters=False, title="conformance",
        heads=["objective", "library", "d value", "d grad", "cosine", "verdict"], num_labels=2, remark=True, rows=rows,
        notes=[*notes, f"{num_rows - failing} of {num_rows} rows agree or differ as stated"],
        content={name: content[name] for name in names if name in content},
    )  # fmt: skip


def markdown(content: dict[str, Any]) -> str:
    """A line a row and library, of what remains after adjusting for a stated difference; footnotes below."""
    rows, previous = [], ""
    for row in content["rows"]:
        objective = "" if row["objective"] == previous else f"`{row['objective']}`"
        previous = row["objective"]
        told = row["verdict"]
        if "adjusted_differences" in row:
            told += f" (as defined {_small(row['defined']['value_difference'])}) for"
        told += f": {_reason(row)}" if _reason(row) else ""
        rows.append([objective, NAMES[row["library"]], row["theirs"], *_figures(_shown(row)), told])
    heads = ["objective", "library", "their function", "Δ value", "Δ gradient", "cosine", "verdict"]
    return "\n".join([markdown_table(heads, rows, num_labels=3, remark=True), "", *_footnotes(content)])


def _footnotes(content: Mapping[str, Any]) -> list[str]:
    versions = ", ".join(
        f"{NAMES[name]} {next(iter(facts['versions'].values()))}"
        for name, facts in content["libraries"].items()
        if facts.get("versions")
    )
    stand_ins = "; ".join(
        f"{NAMES[name]}: {', '.join(facts['placeholders'])}"
        for name, facts in content["libraries"].items()
        if facts.get("placeholders")
    )
    not_run = "; ".join(f"{what}: {why}" for what, why in content["not_run"].items())
    return [
        f"Largest differences over {len(content['inputs'])} random inputs in float32, Δ gradient of an element; "
        f'"agrees" is at most {TOLERANCE:g}: of values absolute, relative above 1, of gradients relative to the '
        'largest element. "Agrees after adjusting": they define it as the sentence says, and with that put into ours '
        "it agrees; the differences shown are then those that remain, and in brackets that of the value before. "
        f"Their own code, as installed: {versions}.{_double(content)}",
        "",
        f"Not run: {not_run}.",
        "",
        "Imported beside a loss, never touched by it, and replaced by a placeholder (with (init): a package whose "
        f"`__init__` is not run): {stand_ins}.",
    ]


def _double(content: Mapping[str, Any]) -> str:
    """The largest differences of ours in float32 from those that also ran in float64."""
    rows = [row["float64"] for row in content["rows"] if row.get("float64", {}).get("verdict", "").startswith("agrees")]
    if not rows:
        return ""
    names = ("value_difference_scaled", "gradient_difference_relative")
    value, gradient = (max(_shown(row)[name] or 0.0 for row in rows) for name in names)
    return (
        f" {len(rows)} rows also ran with their side in float64: there the tolerances are met with "
        f"{_small(value)} (values) and {_small(gradient)} (gradients)."
    )


def _shown(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What remains: of a row with a stated difference, after adjusting for it."""
    return row.get("adjusted_differences") or row.get("defined") or {}


def _reason(row: Mapping[str, Any]) -> str:
    return row.get("failure") or row["difference"]


def _figures(worst: Mapping[str, float | None]) -> list[str]:
    cosine = worst.get("cosine")
    cells = [_small(worst.get(name)) for name in ("value_difference", "gradient_difference")]
    return [*cells, "-" if cosine is None else f"{cosine:.6f}"]


def _small(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.1e}"
