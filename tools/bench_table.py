#!/usr/bin/env python3
"""One or two files of benchmark results as a table (Markdown) and as a picture.

  tools/bench_table.py ours.json                     time, spread, rates and percent of the roof
  tools/bench_table.py before.json after.json        and the second's times over the first's
  tools/bench_table.py ours.json peers.json --picture roof.svg

Reads the JSON of Google Benchmark (with --benchmark_repetitions for a spread), of
compare_kernels.py and of compare_pytorch.py. A time is the median, the spread is the smallest and
the largest repetition, or two standard deviations where only those were kept. A difference is
"within the spread" when the two ranges meet. A peer stands under the benchmark whose work it does,
and its rates are of that work: bytes and FLOPs that it moves beyond it count as time lost.

The picture has a bar for each benchmark with a `roof` counter (percent of what the hardware was
measured to do in the same process), thinner ones for its peers. Pictures need matplotlib; the table
needs the standard library only.
"""

import argparse
import re
from pathlib import Path

from benchmark_json import BadInput, fail, read_measurements, take_rates

# Okabe and Ito's colours, told apart by colour-blind readers; black is for lines and text.
OURS = "#0072B2"
PEERS = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
HATCHES = ("", "///", "...", "xxx", "\\\\\\", "---")
INCHES, MARGIN = 0.17, 1.3  # of a peer's bar; of title, axis and legend together


# ---------------------------------------------------------------------------------------------
# The table

def time_text(seconds):
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= 0.9995 * size:  # 1.00 ms, not 1,000 µs
            return f"{three_digits(seconds / size)} {unit}"
    return f"{three_digits(seconds * 1e9)} ns"


def three_digits(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def rate_text(value, unit):
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= 0.9995 * size:
            return f"{three_digits(value / size)} {prefix}{unit}"
    return f"{three_digits(value)} {unit}"


def spread_text(one):
    """As percent of the time: -1 % +3 %"""
    if one.low is None or not one.time:
        return "–"
    return f"{100 * (one.low / one.time - 1):+.1f} % {100 * (one.high / one.time - 1):+.1f} %"


def rate_cells(one):
    cells = []
    for key, unit in (("bytes_per_second", "B/s"), ("FLOP/s", "FLOP/s")):
        cells.append(rate_text(one.rates[key], unit) if key in one.rates else "")
    return [*cells, f"{one.rates['roof']:.0f} %" if "roof" in one.rates else ""]


def label(one):
    return f"`{one.name}`" if one.peer is None else f"&nbsp;&nbsp;{one.peer}"


def verdict(first, second):
    if None in (first.low, second.low):
        return "spread unknown"
    if second.low <= first.high and first.low <= second.high:
        return "within the spread"
    return "faster" if second.time < first.time else "slower"


def partner(one, first):
    """What `one` of the second file is held against: the same, or ours where it is a peer."""
    return first.get(one.key) or first.get((one.name, None))


def markdown(header, rows):
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def in_groups(*files):
    """Keys of all files, peers after their benchmark, otherwise in the order of the files."""
    keys = list(dict.fromkeys(key for file in files for key in file))
    names = list(dict.fromkeys(name for name, _ in keys))
    return [key for name in names for key in sorted((k for k in keys if k[0] == name),
                                                    key=lambda k: k[1] is not None)]


def table_of_one(first):
    rows = []
    for key in in_groups(first):
        one = first[key]
        rows.append([label(one), *([f"failed: {one.error}", "", "", "", ""] if one.error else
                                   [time_text(one.time), spread_text(one), *rate_cells(one)])])
    return markdown(["benchmark", "time", "spread", "bytes/s", "FLOP/s", "of the roof"], rows)


def table_of_two(first, second, names):
    rows = []
    for key in in_groups(first, second):
        before, after = first.get(key), second.get(key)
        cells = [label(before or after)]
        for one in (before, after):
            cells += (["", ""] if one is None else [f"failed: {one.error}", ""] if one.error else
                      [time_text(one.time), spread_text(one)])
        shown = after if after and not after.error else before
        cells += rate_cells(shown)
        base = partner(after, first) if after and not after.error else None
        cells += ([f"{after.time / base.time:.3f}", verdict(base, after)]
                  if base and not base.error and base.time else ["", ""])
        rows.append(cells)
    header = ["benchmark", names[0], "spread", names[1], "spread", "bytes/s", "FLOP/s",
              "of the roof", "second : first", ""]
    return markdown(header, rows)


def give_rates(first, second):
    """The second file's peers have their rates from the first file's benchmarks."""
    for one in second.values():
        base = partner(one, first)
        if one.peer and base and not one.error and one.time:
            take_rates(one, base)


# ---------------------------------------------------------------------------------------------
# The picture

def bars(first, second, second_name):
    """{operation: [(name, [(series, measurement)])]}; our own bars come first, peers from the
    second file where both have them."""
    operations = {}
    for name in dict.fromkeys(name for file in (first, second) for name, _ in file):
        group = []
        for file in (first, second):
            for (owner, peer), one in file.items():
                again = peer and file is first and (owner, peer) in second
                if owner == name and "roof" in one.rates and not one.error and not again:
                    group.append((peer or ("vitrine" if file is first else second_name), one))
        if group:
            group.sort(key=lambda bar: bar[0] not in ("vitrine", second_name))
            operations.setdefault(name.split("/")[0], []).append((name, group))
    if not operations:
        raise BadInput("no benchmark has a counter 'roof': there is nothing to draw")
    return operations


def draw(operations, path, our_name):
    try:
        import matplotlib
    except ImportError:
        raise BadInput("pictures need matplotlib (Debian: python3-matplotlib)") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    matplotlib.rcParams.update({"font.size": 8, "hatch.linewidth": 0.5, "svg.fonttype": "none"})
    series = list(dict.fromkeys(s for groups in operations.values() for _, group in groups
                                for s, _ in group if s != "vitrine"))
    styles = {"vitrine": dict(color=OURS)}
    for i, name in enumerate(series):
        styles[name] = dict(facecolor=PEERS[i % len(PEERS)], edgecolor="black", linewidth=0.3,
                            hatch=HATCHES[i // len(PEERS) % len(HATCHES)])
    places, height = place(operations)
    figure, axes = pyplot.subplots(figsize=(10, height * INCHES + MARGIN), layout="constrained")
    labelled, right = set(), max(one.rates["roof"] for *_, one in places["bars"])
    right = max(right, 100) * 1.16
    for y, thickness, name, one in places["bars"]:
        roof = one.rates["roof"]
        axes.barh(y, roof, thickness, align="edge", **styles[name],
                  label=None if name in labelled else our_name if name == "vitrine" else name)
        labelled.add(name)
        axes.text(roof + right / 200, y + thickness / 2, f"{roof:.0f} %  {time_text(one.time)}",
                  va="center", fontsize=6 if thickness < 1 else 7, zorder=3,
                  bbox=dict(facecolor="white", edgecolor="none", pad=0.5))
    for y, operation in places["titles"]:
        axes.text(0, y + 0.75, operation, va="center", fontweight="bold", fontsize=9)
    axes.axvline(100, color="black", linewidth=1, linestyle="--", label="roof")
    axes.set_yticks(*zip(*places["ticks"]))
    axes.tick_params(axis="y", length=0)
    axes.set(xlim=(0, right), ylim=(height, 0), xlabel="percent of the measured roof")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper center", ncols=min(4, len(styles) + 1), frameon=False)
    figure.savefig(path, dpi=150)


def place(operations):
    """Where everything stands, in units of a peer's bar, and the height of it all."""
    y, places = 0.0, dict(bars=[], titles=[], ticks=[])
    for operation, groups in operations.items():
        places["titles"].append((y, operation))
        y += 1.5
        for name, group in groups:
            start = y
            for series, one in group:
                thickness = 1.4 if series == "vitrine" else 0.8
                places["bars"].append((y, thickness * 0.92, series, one))
                y += thickness
            places["ticks"].append(((start + y) / 2, name.partition("/")[2] or name))
            y += 0.5
        y += 0.5
    return places, y


# ---------------------------------------------------------------------------------------------

def wanted(measurements, pattern):
    return {key: one for key, one in measurements.items() if re.search(pattern, one.name)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", metavar="FIRST.json")
    parser.add_argument("second", metavar="SECOND.json", nargs="?")
    parser.add_argument("--filter", default="", metavar="REGEX", help="only these names")
    parser.add_argument("--picture", metavar="FILE", help="ends in .svg or .png")
    args = parser.parse_args()
    try:
        if args.picture and Path(args.picture).suffix not in (".svg", ".png"):
            raise BadInput(f"--picture: found {args.picture}, expected a name in .svg or .png")
        first = wanted(read_measurements(args.first), args.filter)
        second = wanted(read_measurements(args.second), args.filter) if args.second else {}
        if not first and not second:
            raise BadInput(f"{args.first}: no benchmark" +
                           (f" matches {args.filter}" if args.filter else ""))
        give_rates(first, second)
        names = [Path(path).stem for path in (args.first, args.second) if path]
        if args.picture:
            twice = any(peer is None for _, peer in second)  # ours before and after
            draw(bars(first, second, names[-1]), args.picture, names[0] if twice else "vitrine")
        print(table_of_two(first, second, names) if args.second else table_of_one(first), end="")
    except (BadInput, re.error) as error:
        fail(error)


if __name__ == "__main__":
    main()
