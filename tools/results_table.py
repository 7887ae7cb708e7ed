#!/usr/bin/env python3
"""The README's tables of training steps beside PyTorch's, from what was measured.

  tools/results_table.py            writes them
  tools/results_table.py --check    exit status 1 where README.md and the files differ

Reads bench/results/MACHINE/*.json as compare_pytorch.py writes them; other files there are passed
over. A table for each, between the markers in README.md. Standard library only.
"""

import argparse
import sys
from pathlib import Path

from benchmark_json import BadInput, fail, load

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- benchmark results: tools/results_table.py -->", "<!-- end -->"
GROUPS = {"eager": "PyTorch eager", "compiled": "PyTorch compiled", "pruned": "PyTorch pruned"}
ALONE = "†"  # measured alone
COMPILED = ("compile", "autotune", "joint", "graph")  # modes of a variant


def comparisons(results):
    """[(path, data)] of compare_pytorch.py's files, machines and files by name."""
    found = []
    for path in sorted(Path(results).glob("*/*.json")):
        data = load(path)
        if isinstance(data, dict) and "about" in data and isinstance(data.get("results"), list):
            found.append((path, data))
    return found


def group_of(variant):
    if variant.endswith("-pruned"):
        return "pruned"
    return "compiled" if variant.split("-")[0] in COMPILED else "eager"


def side(record, group):
    """(variant, result of PyTorch, ratio) of the fastest variant of a group; None without one.

    What was not measured in turn with Vitrine has no ratio.
    """
    measured = record.get("groups", {}).get(group)
    if measured and "ratio" in measured:
        return measured["best"], measured["pytorch"], measured["ratio"]
    variants = {name: result for name, result in record.get("variants", {}).items()
                if "median_ms" in result and group_of(name) == group}
    if not variants:
        return None
    best = min(variants, key=lambda name: variants[name]["median_ms"])
    return best, variants[best], None


def milliseconds(result):
    median = result["median_ms"]
    return f"{median:.3f} ms" if median < 1 else f"{median:.2f} ms" if median < 10 else \
        f"{median:.1f} ms"


def cell(one):
    """Of PyTorch; what was measured alone has a mark, which the table's note explains."""
    if not one:
        return ""
    variant, result, ratio = one
    return f"{milliseconds(result)} ({variant})" + ("" if ratio else f" {ALONE}")


def rounds(records):
    """Of the groups in turn, over which the times are medians."""
    counts = {len(entry["vitrine"]["rounds_ms"]) for record in records
              for entry in record["groups"].values() if "vitrine" in entry}
    if not counts:
        return []
    least, most = min(counts), max(counts)
    count = str(most) if least == most else f"{least} to {most}"
    return [f"medians of {count} round" + ("s" if most != 1 else "")]


def row(cells):
    return "| " + " | ".join(cells) + " |\n"


def table(path, data):
    records = [record for record in data["results"] if "vitrine" in record]
    if not records:
        return ""
    try:
        groups = [group for group in GROUPS if any(side(record, group) for record in records)]
        text = heading(path, data["about"], records) + "\n\n"
        text += row(["model", "batch", *(GROUPS[group] for group in groups), "Vitrine",
                     *(f"{group} : Vitrine" for group in groups)])
        text += row(["---", "---:", *["---:"] * (2 * len(groups) + 1)])
        for record in records:
            sides = [side(record, group) for group in groups]
            text += row([f"`{record['model']}`", str(record["batch"]),
                         *(cell(one) for one in sides),
                         milliseconds(record["vitrine"]),
                         *(f"{one[2]:.2f}x" if one and one[2] else "" for one in sides)])
        if ALONE in text:
            text += f"\n{ALONE} alone, not in turn with Vitrine: no ratio\n"
        return text
    except KeyError as error:
        raise BadInput(f"{path}: results: found no {error.args[0]}") from None


def heading(path, about, records):
    """The device, what it was measured with, and when."""
    missing = [key for key in ("torch", "cpu", "cores", "threads", "date") if key not in about]
    if missing:
        raise BadInput(f"{path}: about: found no {missing[0]}")
    threads = f"{about['threads']} thread" + ("s" if about["threads"] != 1 else "")
    if about.get("device") == "cuda":
        parts = [f"**{about['gpu']}**", f"driver {about.get('driver_version', 'unknown')}",
                 f"CUDA {about['cuda']}", f"cuDNN {about['cudnn']}",
                 about["precision"]]
        if "clocks.max.sm" in about:
            parts.append(f"clocks up to {about['clocks.max.sm']} and {about['clocks.max.mem']}")
    else:
        parts = [f"**{about['cpu']}**, {len(about['cores'])} cores", threads, "fp32"]
    parts += [f"PyTorch {about['torch']}", *rounds(records), about["date"].split()[0]]
    if "commit" in about:
        parts.append(f"commit {about['commit']}")
    folder = path.parent.name
    return ", ".join(parts) + f"; [`bench/results/{folder}`](bench/results/{folder})"


def with_tables(readme, text, tables):
    """README's text with these tables between its markers."""
    if BEGIN not in text or END not in text.split(BEGIN)[1]:
        raise BadInput(f"{readme}: found no lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return before + BEGIN + "\n" + "\n".join(tables) + END + rest.split(END, 1)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    parser.add_argument("--readme", default=ROOT / "README.md", type=Path)
    parser.add_argument("--results", default=ROOT / "bench" / "results", metavar="DIRECTORY")
    args = parser.parse_args()
    try:
        tables = [text for text in (table(*one) for one in comparisons(args.results)) if text]
        present = args.readme.read_text(encoding="utf-8")
        wanted = with_tables(args.readme, present, tables)
    except BadInput as error:
        fail(error)
    if args.check and wanted != present:
        sys.exit(f"{args.readme}: the tables are not those of {args.results}: "
                 "run tools/results_table.py")
    if not args.check and wanted != present:
        args.readme.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
