"""Figures into a page: tables, and plots beside it.

    python benchmarks/report.py benchmarks/results/plain.json benchmarks/results/extras.json [--page docs/benchmarks.md]

Files that `run.py` wrote are taken, others passed over. Every sentence with a number in it is made from the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from plots import draw

__all__ = ["main"]

ROOT = Path(__file__).parent.parent
Row = dict[str, Any]
HEAD = """# Benchmarks

Made by `benchmarks/run.py` and `benchmarks/report.py`; every number comes from the files in `benchmarks/results`.

```bash
python benchmarks/run.py --json benchmarks/results/plain.json
python benchmarks/run.py --extras --only classes peers --json benchmarks/results/extras.json
python benchmarks/report.py benchmarks/results/plain.json benchmarks/results/extras.json
```

Calls that are compared run in turn in one process, A B A B, with new values on one pattern each time, so that no factorization
is reused. A ratio is the median of the rounds' ratios, after a warm-up round; the slowest calls have one or two rounds (`rounds` in the
files). Each case runs in its own process, on one thread unless stated. The machine was shared: ratios of a few rounds are accurate to about a
fifth, and milliseconds of different tables cannot be compared.

"""
ABOUT = {
    "classes": """Sparsolve's time divided by that of the fastest raw calls: `splu` with the better of two orderings (COLAMD, or minimum degree in symmetric mode), or LAPACK
in a band, with pivots or, told that A is positive definite, by Cholesky's method, and one solve; for the gradient one more adjoint solve. **Below 1 sparsolve is faster.** *New pattern* is value and gradient with an
empty memo. Each value with its gradient took one factorization. *Worse* is the time of the worse ordering divided by that of the better one: what a
wrong choice would cost.""",
    "extras": """The same with the optional direct solvers ([which](optional-backends.md)). *Raw library* is PARDISO, KLU or CHOLMOD, whichever is fastest, called without any
check, with the analysis of an earlier factorization. *Second* is the second factorization of a pattern, which includes a large analysis;
that pays off from the third on.""",
    "peers": """Value and gradient with respect to A's values and b: the other package's time divided by sparsolve's. **Above 1 sparsolve is faster.** Each peer is called by its
documented entry. *Sparsolve, CG* is this package's own iteration, without a preconditioner, to the same tolerance (1e-10) as the other one. If an
iteration converges fast it beats every factorization; `LU()` is the default because it works for any nonsingular matrix.""",
    "batch": "Value and gradient of 64 value vectors on one pattern under `vmap`, divided by the time of 64 raw calls one after another.",
    "vmap": """Milliseconds per column, of `vmap` over right-hand sides with one matrix that is already factorized, and of SuperLU's solve with the same
block. `vmap` checks every solution by its residual; SuperLU alone does not.""",
    "memory": "By how much value and gradient raise the peak memory of a process, in MiB. Sparsolve keeps the factor afterwards.",
    "answers": """Backward error `‖b - A x‖ / (‖A‖ ‖x‖ + ‖b‖)`, or the error raised, for the gallery and for real matrices (files of the
SuiteSparse collection).""",
}


def table(head: str, rows: Iterable[Iterable[Any]]) -> str:
    columns = [c.strip() for c in head.split("|")]
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell(c) for c in line) + " |" for line in lines) + "\n"


def cell(value: Any) -> str:
    if isinstance(value, float):
        size = abs(value)
        form = ".0f" if size >= 100 or not size else ".1f" if size >= 10 else ".2f" if size >= 0.1 else ".2g"
        return format(value, form)
    return f"{value:,}".replace(",", " ") if isinstance(value, int) else str(value).replace("|", "/").replace("\n", " ")


def of(rows: list[Row], part: str) -> list[Row]:
    return [r for r in rows if r["part"] == part]


def failures(rows: list[Row]) -> str:
    """What failed, or was skipped, and why; each reason once."""
    said: dict[str, list[str]] = {}
    for r in rows:
        reason = r.get("failed") or r.get("skipped")
        if reason:
            said.setdefault(f"{r['peer']}: {reason}" if "peer" in r else reason, []).append(r["system"])
    lines = [f"- {why.rstrip('.')} ({', '.join(dict.fromkeys(systems))})." for why, systems in said.items()]
    return "\n".join(lines) + "\n" if lines else ""


def wrong_choice(r: Row) -> Any:
    """The worse ordering over the better one."""
    took = [t for way, t in r["raw_ways_ms"].items() if way.startswith("SuperLU") and isinstance(t, float)]
    return max(took) / min(took) if len(took) == 2 else ""


def classes(rows: list[Row], extras: bool) -> str:
    good = [r for r in rows if "failed" not in r]
    head = "system | n | strategy | raw way | raw gradient, ms | value | gradient | gradient, CPU | new pattern | worse"
    keys = ("system", "n", "strategy", "raw")
    lines = [
        [
            *(r[k] for k in keys),
            r["ms"]["raw gradient"],
            *(r[k] for k in ("value", "gradient", "gradient_cpu", "first")),
            *([r["second"]] if extras else []),
            *([r.get("extra") or "", r.get("gradient_over_extra", "")] if extras else [wrong_choice(r)]),
        ]
        for r in good
    ]
    head = head.replace("worse", "second | raw library | gradient over it") if extras else head
    slow = [f"{r['system']} ({r['gradient']:.2g})" for r in good if r["gradient"] > 1.3]
    said = f"More than 1.3 times the raw calls for value and gradient: {', '.join(slow) or 'none'}.\n"
    return f"{table(head, lines)}\n{said}{failures(rows)}"


def peers(rows: list[Row], extras: bool) -> str:
    systems, names = (list(dict.fromkeys(r[k] for r in rows)) for k in ("system", "peer"))
    found = {(r["system"], r["peer"]): r for r in rows}

    def shown(system: str, name: str) -> Any:
        r = found.get((system, name), {})
        if "ratio" not in r:
            return "failed" if "failed" in r else "–"
        wrong = r["gradient_difference"] > 1e-6 or not r["backward_error"] < 1e-8
        return cell(r["ratio"]) + (
            f" (wrong: {max(r['gradient_difference'], r['backward_error']):.0e})" if wrong else ""
        )

    size = {r["system"]: r["n"] for r in rows if "n" in r}

    def mine(system: str) -> Any:
        known = [r["ours_ms"] for r in rows if r["system"] == system and "ours_ms" in r]
        return min(known) if known else ""

    lines = [[s, size.get(s, ""), mine(s), *(shown(s, p) for p in names)] for s in systems]
    note = (
        "*Wrong* is a gradient that differs by more than 1e-6 of its largest entry, or a backward error above 1e-8.\n"
    )
    head = " | ".join(("system", "n", "sparsolve, ms", *names))
    return f"{table(head, lines)}\n{note}\n{failures(rows)}"


def batch(rows: list[Row], extras: bool) -> str:
    keys = ("system", "n", "threads", "raw", "raw_ms", "ours_ms", "ratio", "dense_ms")
    head = "system | n | threads | raw way | raw, ms | sparsolve, ms | ratio | torch.linalg.solve, dense, ms"
    return table(head, [[r.get(k, "–") for k in keys] for r in rows])


def vmap(rows: list[Row], extras: bool) -> str:
    keys = ("system", "n", "k", "raw_ms_a_column", "ours_ms_a_column", "ratio")
    return table("system | n | columns | raw, ms | vmap, ms | ratio", [[r[k] for k in keys] for r in rows])


def memory(rows: list[Row], extras: bool) -> str:
    systems, names = (list(dict.fromkeys(r[k] for r in rows)) for k in ("system", "who"))
    found = {(r["system"], r["who"]): r["mib"] for r in rows if "mib" in r}
    return table(" | ".join(("system", *names)), [[s, *(found.get((s, w), "failed") for w in names)] for s in systems])


def answers(rows: list[Row], extras: bool) -> str:
    lines = []
    for r in rows:
        outcome = (
            f"{r['backward_error']:.0e}" if "backward_error" in r else r.get("failed") or f"`{r['error']}`: {r['says']}"
        )
        lines.append([r["system"], r.get("n", ""), r.get("nnz", ""), r.get("strategy", ""), outcome])
    return table("system | n | nnz | strategy | backward error, or error", lines)


SECTIONS: dict[str, tuple[str, Callable[[list[Row], bool], str]]] = {
    "classes": ("Matrix classes", classes),
    "peers": ("Other packages", peers),
    "batch": ("Batches of values", batch),
    "vmap": ("Batches of right-hand sides", vmap),
    "memory": ("Memory", memory),
    "answers": ("Answers", answers),
}
FIGURES = {"peers": "time-against-n.svg", "vmap": "vmap-width.svg"}


def page(documents: list[dict[str, Any]], figures: dict[str, str]) -> str:
    """The page in Markdown; `figures` are paths relative to it."""
    text = [HEAD]
    for d in documents:
        versions = ", ".join(f"{k} {v}" for k, v in d["machine"].items() if k != "cores")
        text.append(
            f"{'With' if d['extras'] else 'Without'} optional solvers: {versions}; {d['machine']['cores']} cores.{d.get('note', '')}\n\n"
        )
    for part, (title, made) in SECTIONS.items():
        parts = [(d["extras"], of(d["rows"], part)) for d in documents]
        if not any(rows for _, rows in parts):
            continue
        text.append(f"## {title}\n\n{ABOUT[part]}\n\n")
        for extras, rows in parts:
            if rows and extras:
                text.append(f"### With optional solvers\n\n{ABOUT['extras'] if part == 'classes' else ''}\n\n")
            text.append(f"{made(rows, extras)}\n" if rows else "")
        if part in figures:
            text.append(f"![{title}]({figures[part]})\n\n")
    return "".join(text).replace("\n\n\n", "\n\n").rstrip() + "\n"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md")
    options = parser.parse_args(arguments)
    documents = [d for d in (json.loads(path.read_text()) for path in options.results) if "rows" in d]
    if not documents:
        print("None of these files is one of run.py's.")
        return 2
    documents.sort(key=lambda d: d["extras"])
    folder = options.page.parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw(documents, {part: folder / name for part, name in FIGURES.items()})
    options.page.write_text(page(documents, {part: f"figures/{FIGURES[part]}" for part in drawn}))
    print(options.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
