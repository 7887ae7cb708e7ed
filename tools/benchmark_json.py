"""Benchmark results as the tools here read them: Google Benchmark's JSON, compare_kernels.py's
and compare_pytorch.py's, old and new. Standard library only.

A name is OPERATION/KEY:VALUE/…/WORD…, for example
attention_forward/B:64/T:197/Tq:197/H:12/d:64/bf16.
What another library takes for the same work has the same name and a peer: the field `peer`, or
/peer:NAME at the end.
"""

import json
import re
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}
# Parts of a name that Google Benchmark adds.
ADDED = re.compile(r"real_time|manual_time|process_time|"
                   r"(iterations|repeats|min_time|min_warmup_time):.*")


class BadInput(Exception):
    """One line that says what is wrong with a file."""


def fail(error):
    """The line, and exit status 2."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)


@dataclass
class Measurement:
    """Times in seconds. `low` and `high` are the spread, None where one run was all."""
    name: str
    peer: str | None = None
    time: float = 0.0
    low: float | None = None
    high: float | None = None
    rates: dict = field(default_factory=dict)  # bytes_per_second, FLOP/s, roof, as far as known
    side_by_side: int = 1  # calls at a time, one a thread; the rates are of all of them
    error: str | None = None

    @property
    def operation(self):
        return self.name.split("/")[0]

    @property
    def key(self):
        return self.name, self.peer


def parse_name(name):
    """(operation, {key: number}, words): attention_forward/B:2/bf16 -> "attention_forward",
    {"B": 2}, ["bf16"]"""
    operation, *parts = name.split("/")
    keys, words = {}, []
    for part in parts:
        key, colon, value = part.partition(":")
        if colon and value.isdigit():
            keys[key] = int(value)
        else:
            words.append(part)
    return operation, keys, words


def split_name(name):
    """(name without what Google Benchmark added, peer or None)"""
    kept = "/".join(part for part in name.split("/") if not ADDED.fullmatch(part))
    name, _, peer = kept.partition("/peer:")
    return name, peer or None


def load(path):
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise BadInput(f"{path}: not JSON: {error}") from None


def read_measurements(path):
    """{(name, peer): Measurement} in the order of the file."""
    data = load(path)
    if isinstance(data, dict) and isinstance(data.get("benchmarks"), list):
        found = from_google(path, data["benchmarks"])
    elif isinstance(data, dict) and isinstance(data.get("results"), list):
        found = from_comparison(path, data)
    else:
        raise BadInput(f"{path}: found no list 'benchmarks' or 'results'")
    inherit_rates(found)
    return {one.key: one for one in found}


def context_of(path):
    """(device, threads) of a file of Vitrine's benchmarks."""
    context = load(path).get("context", {})
    device, threads = context.get("device"), str(context.get("threads"))
    if device not in ("cpu", "cuda"):
        raise BadInput(f"{path}: context: device: found {device!r}, expected 'cpu' or 'cuda'")
    if not threads.isdigit() or int(threads) < 1:
        raise BadInput(f"{path}: context: threads: found {threads!r}, expected a positive number")
    return device, int(threads)


def number(path, entry, key):
    value = entry.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise BadInput(f"{path}: {entry.get('name', '?')}: {key}: found {value!r}, "
                       "expected a number")
    return value


# ---------------------------------------------------------------------------------------------
# Google Benchmark's format

def from_google(path, entries):
    runs = {}  # (name, peer): entries of its repetitions, and of Google Benchmark's statistics
    for entry in entries:
        if not isinstance(entry, dict) or "name" not in entry:
            raise BadInput(f"{path}: benchmarks: found {entry!r}, expected an entry with a name")
        name, peer = split_name(entry.get("run_name", entry["name"]))
        runs.setdefault((name, entry.get("peer", peer)), []).append(entry)
    return [summary(path, key, entries) for key, entries in runs.items()]


def summary(path, key, entries):
    """Of the repetitions; of Google Benchmark's median and cv where those alone were kept."""
    errors = [e.get("error_message", "failed") for e in entries if e.get("error_occurred")]
    if errors:
        return Measurement(*key, error=errors[0])
    repetitions = [e for e in entries if e.get("run_type") != "aggregate"]
    if repetitions:
        times = [seconds(path, e) for e in repetitions]
        one = Measurement(*key, statistics.median(times), side_by_side=calls_at_a_time(entries))
        if len(times) > 1:
            one.low, one.high = min(times), max(times)
        elif "spread" in repetitions[0]:  # compare_kernels.py: of the samples, as real_time
            unit = SECONDS[repetitions[0]["time_unit"]]
            one.low, one.high = (value * unit for value in repetitions[0]["spread"])
        one.rates = median_rates(repetitions)
        return one
    statistic = {e.get("aggregate_name"): e for e in entries}
    middle = statistic.get("median") or statistic.get("mean")
    if middle is None:
        raise BadInput(f"{path}: {key[0]}: found no repetition and no median")
    one = Measurement(*key, seconds(path, middle), rates=median_rates([middle]),
                      side_by_side=calls_at_a_time([middle]))
    if "stddev" in statistic:
        deviation = seconds(path, statistic["stddev"])
        one.low, one.high = one.time - 2 * deviation, one.time + 2 * deviation
    return one


def seconds(path, entry):
    unit = entry.get("time_unit", "ns")
    if unit not in SECONDS:
        raise BadInput(f"{path}: {entry['name']}: time_unit: found {unit!r}, "
                       f"expected one of {', '.join(SECONDS)}")
    return number(path, entry, "real_time") * SECONDS[unit]


def median_rates(entries):
    rates = {}
    for key in ("bytes_per_second", "FLOP/s", "roof"):
        values = [e[key] for e in entries if isinstance(e.get(key), (int, float))]
        if values:
            rates[key] = statistics.median(values)
    return rates


def calls_at_a_time(entries):
    return max(1, round(entries[0].get("side_by_side", 1)))


def take_rates(one, base):
    """A peer does the same work: its rates follow from ours and the two times. One that runs fewer
    calls at a time has a share of the machine; the roof it is held against is that of its share."""
    for key, value in base.rates.items():
        share = 1 if key == "roof" else one.side_by_side / base.side_by_side
        one.rates.setdefault(key, value * share * base.time / one.time)


def inherit_rates(measurements):
    ours = {one.name: one for one in measurements if one.peer is None and not one.error}
    for one in measurements:
        base = ours.get(one.name)
        if one.peer and base and one.time > 0:
            take_rates(one, base)


# ---------------------------------------------------------------------------------------------
# compare_pytorch.py's format

def from_comparison(path, data):
    suffix = "/cuda/bf16" if data.get("about", {}).get("device") == "cuda" else ""
    found = []
    for record in data["results"]:
        if "model" not in record or "batch" not in record:
            raise BadInput(f"{path}: results: found an entry without model and batch")
        name = f"train_step/{record['model']}{suffix}/B:{record['batch']}"
        sides = {f"torch {variant}": result for variant, result in record["variants"].items()} \
            if "variants" in record else {}
        for peer, result in {None: record.get("vitrine"), **sides}.items():
            if not result:
                continue
            if "error" in result:
                found.append(Measurement(name, peer, error=result["error"]))
                continue
            low, high = result.get("spread_ms", (None, None))
            found.append(Measurement(name, peer, number(path, result, "median_ms") / 1e3,
                                     low and low / 1e3, high and high / 1e3))
    return found
