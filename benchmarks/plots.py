"""The plots of the benchmarks' page: time against n, and time a column against the width of a `vmap`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

__all__ = ["draw"]

FAMILIES = ("Poisson 2-D", "Poisson 3-D")
Points = dict[str, list[tuple[int, float]]]


def draw(documents: list[dict[str, Any]], files: dict[str, Path]) -> list[str]:
    """Draw what there are figures for; the parts drawn."""
    rows = [(r, d["extras"]) for d in documents for r in d["rows"]]
    panels = {
        "peers": {f: time_against_n(rows, f) for f in FAMILIES},
        "vmap": {s: width(rows, s) for s in dict.fromkeys(r["system"] for r, _ in rows if r["part"] == "vmap")},
    }
    labels = {"peers": ("unknowns", "value + gradient, ms"), "vmap": ("columns", "ms a column")}
    drawn = []
    for part, file in files.items():
        some = {title: points for title, points in panels[part].items() if points}
        if some:
            _draw(some, labels[part], file)
            drawn.append(part)
    return drawn


def time_against_n(rows: list[tuple[dict[str, Any], bool]], family: str) -> Points:
    lines: dict[str, dict[int, list[float]]] = {}
    for r, extras in rows:
        if r["part"] == "peers" and r.get("family") == family and "ratio" in r:
            mine = "sparsolve" + " with optional solvers" * extras
            lines.setdefault(mine, {}).setdefault(r["n"], []).append(r["ours_ms"])
            if not extras:
                lines.setdefault(r["peer"], {}).setdefault(r["n"], []).append(r["ms"])
    return {name: sorted((n, min(ms)) for n, ms in line.items()) for name, line in lines.items()}


def width(rows: list[tuple[dict[str, Any], bool]], system: str) -> Points:
    mine = sorted((r for r, _ in rows if r["part"] == "vmap" and r["system"] == system), key=lambda r: r["k"])
    names = {"vmap": "ours_ms_a_column", "SuperLU's solve of the block": "raw_ms_a_column"}
    return {name: [(r["k"], r[key]) for r in mine] for name, key in names.items()}


def _draw(panels: dict[str, Points], labels: tuple[str, str], file: Path) -> None:
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": file.name, "font.size": 9}):
        figure, axes = plt.subplots(
            1, len(panels), figsize=(4.6 * len(panels), 3.6), squeeze=False, layout="constrained"
        )
        for ax, (title, points) in zip(axes[0], panels.items(), strict=True):
            for name, line in points.items():
                ours = name.startswith(("sparsolve", "vmap"))
                ax.loglog(*zip(*line, strict=True), "o-", label=name, lw=2.2 if ours else 1.1, ms=4 if ours else 3)
            ax.set(title=title, xlabel=labels[0], ylabel=labels[1])
            ax.grid(alpha=0.3)
            ax.legend(fontsize=7)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)
