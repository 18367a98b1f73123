"""Results of `bench.py conformance` as a table for the console and as Markdown for the README.

In: the dict that the bench writes as JSON. Out: a `Report`, Markdown, the number of rows that fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nouscoder_jax.bench.conformance.compare import TOLERANCE
from nouscoder_jax.bench.results import Report, markdown_table

NAMES = {
    "verl": "verl", "trl": "TRL", "openrlhf": "OpenRLHF", "skyrl": "SkyRL", "areal": "AReaL", "tunix": "tunix",
}  # fmt: skip
"""Libraries as they write themselves."""
_HEADS = ("objective", "library", "their function", "Δ value", "Δ gradient", "cosine", "verdict")


def num_failing(content: Mapping[str, Any]) -> int:
    """Rows that should agree and do not, or could not be run."""
    return sum(row["verdict"] in ("DIFFERS", "failed") for row in content["rows"])


def report(content: Mapping[str, Any], facts: Mapping[str, Any]) -> Report:
    """A row an objective and library."""
    good, num_rows = len(content["rows"]) - num_failing(content), len(content["rows"])
    return Report(
        bench="conformance", facts=facts, heads=_HEADS, num_labels=3, remark=True, rows=_rows(content),
        notes=[f"{good} of {num_rows} rows agree or differ as stated"], content=dict(content),
    )  # fmt: skip


def markdown(content: Mapping[str, Any]) -> str:
    """The same table, each objective named once, and what it means."""
    rows = _rows(content)
    shown = [
        ["" if number and row[0] == rows[number - 1][0] else f"`{row[0]}`", *row[1:]] for number, row in enumerate(rows)
    ]
    text = markdown_table(_HEADS, shown, num_labels=3, remark=True)
    return "\n".join([text, "", *_footnotes(content)])


def _rows(content: Mapping[str, Any]) -> list[list[str]]:
    """What remains: of a row with a stated difference, after adjusting for it; and in brackets what was before."""
    rows = []
    for row in content["rows"]:
        shown, told = _shown(row), row["verdict"]
        if "adjusted_differences" in row:
            told += f" (as defined {_small(row['defined']['value_difference'])}) for"
        if reason := row.get("failure") or row["difference"]:
            told += f": {reason}"
        cosine = shown.get("cosine")
        figures = [_small(shown.get(name)) for name in ("value_difference", "gradient_difference")]
        figures.append("-" if cosine is None else f"{cosine:.6f}")
        rows.append([row["objective"], NAMES[row["library"]], row["theirs"], *figures, told])
    return rows


def _footnotes(content: Mapping[str, Any]) -> list[str]:
    libraries = {NAMES[name]: facts for name, facts in content["libraries"].items() if facts.get("versions")}
    versions = ", ".join(f"{name} {next(iter(facts['versions'].values()))}" for name, facts in libraries.items())
    stand_ins = "; ".join(
        f"{name}: {', '.join(facts['placeholders'])}" for name, facts in libraries.items() if facts["placeholders"]
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
    return row.get("adjusted_differences") or row.get("defined") or {}


def _small(value: float | None) -> str:
    return "-" if value is None else "0" if value == 0 else f"{value:.1e}"
