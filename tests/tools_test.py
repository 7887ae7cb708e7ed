"""The tools that compare benchmarks, on made-up results: no PyTorch, no GPU, seconds.

  python3 tests/tools_test.py
"""

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

TOOLS = Path(__file__).resolve().parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
sys.dont_write_bytecode = True

import bench_table  # noqa: E402
import benchmark_json  # noqa: E402
import compare_kernels  # noqa: E402
import compare_pytorch  # noqa: E402
import pytorch_machine  # noqa: E402
import results_table  # noqa: E402

ATTENTION = "attention_forward/B:2/T:5/H:1/d:4/f32"


def run(name, time, **more):
    """A repetition as Google Benchmark writes it."""
    return dict(name=f"{name}/manual_time", run_name=f"{name}/manual_time", run_type="iteration",
                real_time=time, time_unit="us", **more)


class Files(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name)
        self.addCleanup(self.directory.cleanup)

    def write(self, name, data):
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return path

    def benchmarks(self, name, *entries):
        return self.write(name, dict(context={}, benchmarks=entries))

    def tool(self, name, *arguments):
        return subprocess.run([sys.executable, "-B", TOOLS / name, *arguments], text=True,
                              capture_output=True, encoding="utf-8")

    def expect_bad_input(self, result, *words):
        self.assertEqual(result.returncode, 2, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)


class Names(unittest.TestCase):
    def test_what_google_benchmark_adds_is_no_part_of_a_name(self):
        for added in ("", "/real_time", "/iterations:5/manual_time", "/min_time:0.5/real_time"):
            self.assertEqual(benchmark_json.split_name(ATTENTION + added), (ATTENTION, None))
            self.assertEqual(benchmark_json.split_name(f"{ATTENTION}/peer:cuDNN 9{added}"),
                             (ATTENTION, "cuDNN 9"))

    def test_a_name_has_keys_and_words(self):
        self.assertEqual(benchmark_json.parse_name("matmul/dx/m:3/n:4/k:5/bf16"),
                         ("matmul", dict(m=3, n=4, k=5), ["dx", "bf16"]))


class Measurements(Files):
    def expect_times(self, one, *microseconds):
        for value, expected in zip((one.time, one.low, one.high), microseconds):
            self.assertAlmostEqual(value * 1e6, expected)

    def test_repetitions_give_a_median_and_a_spread(self):
        path = self.benchmarks("a.json", *(run(ATTENTION, t, roof=r)
                                           for t, r in ((5, 40), (1, 50), (2, 60))))
        one = benchmark_json.read_measurements(path)[ATTENTION, None]
        self.expect_times(one, 2, 1, 5)
        self.assertEqual(one.rates, dict(roof=50))

    def test_one_run_has_no_spread(self):
        path = self.benchmarks("a.json", run(ATTENTION, 5))
        one = benchmark_json.read_measurements(path)[ATTENTION, None]
        self.expect_times(one, 5)
        self.assertEqual((one.low, one.high), (None, None))

    def test_statistics_alone_are_read(self):
        entries = [dict(name=f"{ATTENTION}_{which}", run_name=ATTENTION, run_type="aggregate",
                        aggregate_name=which, real_time=value, time_unit="ms")
                   for which, value in (("mean", 9), ("median", 8), ("stddev", 1), ("cv", 0.1))]
        one = benchmark_json.read_measurements(self.benchmarks("a.json", *entries))
        self.expect_times(one[ATTENTION, None], 8e3, 6e3, 10e3)

    def test_a_peer_has_the_rates_of_the_same_work(self):
        path = self.benchmarks("a.json", run(ATTENTION, 8, roof=80, bytes_per_second=4e9),
                               run(ATTENTION + "/peer:cuDNN", 16))
        peer = benchmark_json.read_measurements(path)[ATTENTION, "cuDNN"]
        self.assertEqual(peer.rates, {"roof": 40, "bytes_per_second": 2e9})

    def test_a_peer_of_chunks_has_the_rates_of_one(self):
        path = self.benchmarks("a.json", run(ATTENTION, 8, roof=80, bytes_per_second=4e9,
                                             side_by_side=4.0),
                               run(ATTENTION + "/peer:torch", 16),
                               run(ATTENTION + "/peer:copy", 16, side_by_side=4.0))
        found = benchmark_json.read_measurements(path)
        self.assertEqual(found[ATTENTION, "torch"].rates,
                         {"roof": 40, "bytes_per_second": 0.5e9})
        self.assertEqual(found[ATTENTION, "copy"].rates, {"roof": 40, "bytes_per_second": 2e9})

    def test_device_and_threads_are_those_of_the_context(self):
        path = self.write("a.json", dict(context=dict(device="cuda", threads="12")))
        self.assertEqual(benchmark_json.context_of(path), ("cuda", 12))
        for context, word in (({}, "device"), (dict(device="gpu", threads="1"), "'gpu'"),
                              (dict(device="cpu"), "threads"),
                              (dict(device="cpu", threads="0"), "'0'")):
            path = self.write("a.json", dict(context=context))
            with self.assertRaisesRegex(benchmark_json.BadInput, word):
                benchmark_json.context_of(path)

    def test_a_peer_of_a_chunk_has_one_thread(self):
        one = benchmark_json.Measurement(ATTENTION)
        self.assertEqual(compare_kernels.threads_of_a_call(one, 6), 6)
        one.side_by_side = 6
        self.assertEqual(compare_kernels.threads_of_a_call(one, 6), 1)

    def test_a_failed_benchmark_is_kept_as_failed(self):
        path = self.benchmarks("a.json", run(ATTENTION, 0, error_occurred=True,
                                             error_message="wrong by 1"))
        self.assertEqual(benchmark_json.read_measurements(path)[ATTENTION, None].error,
                         "wrong by 1")

    def test_training_steps_beside_pytorchs_are_benchmarks(self):
        path = self.write("c.json", comparison())
        found = benchmark_json.read_measurements(path)
        self.assertEqual(list(found), [("train_step/mnist-tutorial/B:128", peer) for peer in
                                       (None, "torch eager-sdpa", "torch compile-bmm")])
        ours = found["train_step/mnist-tutorial/B:128", None]
        self.expect_times(ours, 1000, 900, 1100)


class Table(Files):
    def test_differences_are_held_against_the_spread(self):
        names = [f"residual/rows:{i}" for i in range(4)]
        before = self.benchmarks("before.json", *(run(name, t) for name in names[:3]
                                                  for t in (10, 11, 12)), run(names[3], 10))
        after = self.benchmarks("after.json", *(run(names[0], t) for t in (5, 5.5, 6)),
                                *(run(names[1], t) for t in (21, 22, 23)),
                                *(run(names[2], t) for t in (11.9, 13, 14)), run(names[3], 5))
        result = self.tool("bench_table.py", before, after)
        self.assertEqual(result.returncode, 0, result.stderr)
        ends = [[cell.strip() for cell in line.split("|")[-3:-1]]
                for line in result.stdout.splitlines()[2:]]
        self.assertEqual(ends, [["0.500", "faster"], ["2.000", "slower"],
                                ["1.182", "within the spread"], ["0.500", "spread unknown"]])

    def test_peers_of_a_second_file_are_held_against_ours(self):
        ours = self.benchmarks("ours.json", run(ATTENTION, 10, roof=60, **{"FLOP/s": 3e12}))
        peers = self.write("peers.json", dict(benchmarks=[
            dict(name=ATTENTION, peer="torch sdpa flash", real_time=30e3, time_unit="ns",
                 spread=[29e3, 31e3])]))
        result = self.tool("bench_table.py", ours, peers)
        line = result.stdout.splitlines()[3]
        for cell in ("torch sdpa flash", "30.0 µs", "-3.3 % +3.3 %", "1.00 TFLOP/s", "20 %",
                     "3.000"):
            self.assertIn(cell, line)

    def test_peers_of_chunks_in_a_second_file_have_the_rates_of_one(self):
        ours = self.benchmarks("ours.json", run(ATTENTION, 10, side_by_side=4.0, roof=60,
                                                **{"FLOP/s": 8e12}))
        peers = self.write("peers.json", dict(benchmarks=[
            dict(name=ATTENTION, peer="torch", real_time=20e3, time_unit="ns")]))
        line = self.tool("bench_table.py", ours, peers).stdout.splitlines()[3]
        for cell in ("20.0 µs", "1.00 TFLOP/s", "30 %", "2.000"):
            self.assertIn(cell, line)

    def test_one_file(self):
        ours = self.benchmarks("ours.json", run(ATTENTION, 10, roof=60, bytes_per_second=3e9))
        self.assertIn(f"| `{ATTENTION}` | 10.0 µs | – | 3.00 GB/s |  | 60 % |",
                      self.tool("bench_table.py", ours).stdout)

    def test_bad_input_is_one_line(self):
        good = self.benchmarks("good.json", run(ATTENTION, 1))
        for text, word in (("{", "not JSON"), ("{}", "benchmarks"), ("[]", "benchmarks"),
                           ('{"benchmarks": [{"name": "a"}]}', "real_time")):
            path = self.write("bad.json", text)
            self.expect_bad_input(self.tool("bench_table.py", path), "bad.json", word)
        self.expect_bad_input(self.tool("bench_table.py", self.path / "none.json"), "none.json")
        self.expect_bad_input(self.tool("bench_table.py", good, "--filter", "layer"), "layer")
        self.expect_bad_input(self.tool("bench_table.py", good, "--picture", "x.pdf"), "x.pdf")
        self.expect_bad_input(self.tool("bench_table.py", good, "--picture", self.path / "x.svg"),
                              "roof" if have_matplotlib() else "")

    def test_the_picture_has_every_benchmark_and_peer(self):
        ours = self.benchmarks("ours.json", run(ATTENTION, 10, roof=60),
                               run("adamw/n:5", 3, roof=9),
                               run(ATTENTION + "/peer:cuDNN", 20), run("adamw/n:7", 3))
        picture = self.path / "roof.svg"
        result = self.tool("bench_table.py", ours, "--picture", picture)
        if not have_matplotlib():
            self.expect_bad_input(result, "matplotlib")
            return
        self.assertEqual(result.returncode, 0, result.stderr)
        text = picture.read_text()
        for word in ("attention_forward", "B:2/T:5/H:1/d:4/f32", "adamw", "n:5", "cuDNN", "roof"):
            self.assertIn(f">{word}</text>", text)
        self.assertNotIn("n:7", text)


def have_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


def result_of(median, spread):
    return dict(median_ms=median, minimum_ms=spread[0], spread_ms=spread, steps=5,
                images_per_second=1.0)


def comparison():
    """A file of compare_pytorch.py: two variants alone, both in turn."""
    ours = dict(result_of(1.0, [0.9, 1.1]), rounds_ms=[0.9, 1.0, 1.1])
    groups = dict(eager=dict(best="eager-sdpa", pytorch=result_of(12.0, [11, 13]), vitrine=ours,
                             ratio=12.0, ratio_spread=[11, 13]),
                  compiled=dict(best="compile-bmm", pytorch=result_of(6.0, [5, 7]), vitrine=ours,
                                ratio=6.0, ratio_spread=[5, 7]))
    record = dict(model="mnist-tutorial", batch=128, threads=2, groups=groups,
                  variants={"eager-sdpa": result_of(12.5, [12, 13]),
                            "compile-bmm": result_of(6.5, [6, 7])}, **groups["compiled"])
    about = dict(date="2026-01-02 03:04 UTC", torch="2.9", cpu="A processor", cores=[0, 1],
                 threads=2, device="cpu")
    return dict(about=about, results=[record, dict(model="mnist-small", batch=1, error="none")])


class Readme(Files):
    FRAME = "# Title\n\n{}\n\nrest\n<!-- published results -->\nkept\n<!-- end -->\n"

    def setUp(self):
        super().setUp()
        self.write("results/a-machine/compare.json", comparison())
        self.write("results/published.json", dict(about={}))
        self.write("results/a-machine/kernels.json", dict(benchmarks=[]))
        self.readme = self.write("README.md", self.FRAME.format(
            results_table.BEGIN + "\nold\n" + results_table.END))
        self.arguments = ["--readme", self.readme, "--results", self.path / "results"]

    def test_the_table_is_written_once_and_checked(self):
        self.assertEqual(self.tool("results_table.py", *self.arguments, "--check").returncode, 1)
        self.assertIn("\nold\n", self.readme.read_text())
        self.assertEqual(self.tool("results_table.py", *self.arguments).returncode, 0)
        text = self.readme.read_text()
        self.assertIn("| `mnist-tutorial` | 128 | 12.0 ms (eager-sdpa) | 6.00 ms (compile-bmm) | "
                      "1.00 ms | 12.00x | 6.00x |\n", text)
        self.assertIn("**A processor**, 2 cores, 2 threads, fp32, PyTorch 2.9, "
                      "medians of 3 rounds, 2026-01-02", text)
        self.assertNotIn("alone", text)
        self.assertNotIn("mnist-small", text)
        self.assertTrue(text.endswith("rest\n<!-- published results -->\nkept\n<!-- end -->\n"))
        self.assertEqual(self.tool("results_table.py", *self.arguments, "--check").returncode, 0)
        self.assertEqual(self.readme.read_text(), text)
        data = comparison()
        data["results"][0]["groups"]["eager"]["ratio"] = 11.0
        self.write("results/a-machine/compare.json", data)
        self.assertEqual(self.tool("results_table.py", *self.arguments, "--check").returncode, 1)

    def test_what_was_not_measured_in_turn_has_no_ratio(self):
        data = comparison()
        del data["results"][0]["groups"]["eager"]
        self.write("results/a-machine/compare.json", data)
        self.tool("results_table.py", *self.arguments)
        text = self.readme.read_text()
        self.assertIn("| 12.5 ms (eager-sdpa) † | 6.00 ms (compile-bmm) | 1.00 ms |  | 6.00x |\n"
                      "\n† alone, not in turn with Vitrine: no ratio\n", text)

    def test_bad_input_is_one_line(self):
        self.write("README.md", "nothing\n")
        self.expect_bad_input(self.tool("results_table.py", *self.arguments), "README.md")
        self.write("README.md", results_table.BEGIN + results_table.END)
        data = comparison()
        del data["about"]["date"]
        self.write("results/a-machine/compare.json", data)
        self.expect_bad_input(self.tool("results_table.py", *self.arguments), "compare.json",
                              "date")

    def test_readme_has_the_tables_of_the_results(self):
        result = self.tool("results_table.py", "--check")
        self.assertEqual(result.returncode, 0, result.stderr)


class Cores(Files):
    def test_threads_are_bound_one_a_core(self):
        for cpu, siblings in enumerate(("0-1", "0-1", "2,5", "3", "4", "2,5")):
            self.write(f"cpu{cpu}/topology/thread_siblings_list", siblings + "\n")
        self.assertEqual(pytorch_machine.one_cpu_a_core({5, 1, 0, 2, 3}, self.path), [0, 2, 3])
        self.assertEqual(pytorch_machine.one_cpu_a_core({5, 1}, self.path), [1, 5])
        self.assertEqual(pytorch_machine.one_cpu_a_core({8, 7}, self.path), [7, 8])

    def test_second_cpus_of_cores_come_last(self):
        calls = []
        with mock.patch.multiple(pytorch_machine.os, sched_getaffinity=lambda _: {0, 1, 2, 3},
                                 sched_setaffinity=lambda _, cpus: calls.append(list(cpus))), \
                mock.patch.object(pytorch_machine, "one_cpu_a_core", lambda _: [0, 2]):
            for threads in (1, 2, 3):
                pytorch_machine.bind(threads)
        self.assertEqual(calls, [[0], [0, 2], [0, 2, 1]])


WORKER = """import json, sys
times = {"eager-sdpa": 9, "eager-bmm": 8, "compile-sdpa": 6, "joint-bmm-gelu": 4,
         "joint-bmm-gelu-pruned": 3}
variant = sys.argv[3]
if variant not in times: sys.exit(1)
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    print(json.dumps([times[variant] * x for x in (0.9, 1, 1, 1.5)]), flush=True)
"""
VITRINE = """#!/bin/sh
name=train_step/mnist-tutorial/B:${VITRINE_BENCH_BATCH:-64}/real_time
if [ "$1" = --benchmark_list_tests ]; then
  printf '%s\\n' $name $name/peer:x train_step/mnist-tutorial/cuda/bf16/B:8 train_step/other/B:7
else
  echo "$VITRINE_BENCH_BATCH $@ $VITRINE_THREADS" >> "$0.log"
  printf '{"benchmarks": [{"name": "%s", "real_time": 2e6,' $name
  echo '"time_unit": "ns", "iterations": 7}]}'
fi
"""


class PyTorchComparison(Files):
    """compare_pytorch.py with a PyTorch and a Vitrine that only print times."""

    def setUp(self):
        super().setUp()
        original = compare_pytorch.WORKER
        self.addCleanup(lambda: setattr(compare_pytorch, "WORKER", original))
        compare_pytorch.WORKER = self.write("worker.py", WORKER)
        self.vitrine = self.write("vitrine.sh", VITRINE)
        self.vitrine.chmod(0o755)
        self.args = SimpleNamespace(
            device="cpu", threads=3, vitrine=str(self.vitrine), tune=None, rounds=2, seconds=1,
            start_limit=60, deadline=float("inf"), variants=None, batch_size=None, models=None)

    def compare(self, batch=64, **more):
        with contextlib.redirect_stdout(io.StringIO()):
            return compare_pytorch.compare("mnist-tutorial", batch, self.args, **more)

    def test_models_and_batches_are_those_of_the_binary(self):
        self.assertEqual(compare_pytorch.models_and_batches(self.args), [("mnist-tutorial", 64)])
        self.args.device = "cuda"
        self.assertEqual(compare_pytorch.models_and_batches(self.args), [("mnist-tutorial", 8)])
        self.args.models, self.args.batch_size = ["d2l-224"], 5
        self.assertEqual(compare_pytorch.models_and_batches(self.args), [("d2l-224", 5)])

    def test_another_batch_is_measured_on_both_sides(self):
        self.args.batch_size = 5
        self.assertEqual(compare_pytorch.models_and_batches(self.args), [("mnist-tutorial", 5)])
        self.assertEqual(self.compare(5)["ratio"], 2)
        call = Path(str(self.vitrine) + ".log").read_text()
        wanted = "5 --benchmark_filter=^train_step/mnist-tutorial/B:5("
        self.assertTrue(call.startswith(wanted), call)

    def test_each_kind_is_held_against_its_fastest_variant(self):
        record = self.compare()
        best = {group: (entry["best"], entry["ratio"]) for group, entry in record["groups"].items()}
        self.assertEqual(best, dict(eager=("eager-bmm", 4), compiled=("joint-bmm-gelu", 2),
                                    pruned=("joint-bmm-gelu-pruned", 1.5)))
        self.assertEqual((record["best"], record["ratio"]), ("joint-bmm-gelu", 2))
        self.assertEqual(record["variants"]["joint-bmm-gelu"]["minimum_ms"], 3.6)
        for side, median, steps in (("pytorch", 4, 8), ("vitrine", 2, 14)):
            self.assertEqual(record[side], dict(
                median_ms=median, minimum_ms=median, spread_ms=[median] * 2, steps=steps, rounds=2,
                rounds_ms=[median] * 2, images_per_second=64e3 / median))
        self.assertIn("error", record["variants"]["compile-bmm"])
        calls = Path(str(self.vitrine) + ".log").read_text().splitlines()
        self.assertEqual(len(calls), 6)
        self.assertTrue(calls[0].endswith("--benchmark_min_time=1 --benchmark_format=json 3"))

    def test_what_was_measured_is_kept_when_time_runs_out(self):
        kept = []

        def keep(record):
            kept.append(json.loads(json.dumps(record)))
            if len(kept) == 1:
                self.args.deadline = time.monotonic() - 1

        self.compare(keep=keep)
        self.assertEqual((kept[0]["best"], kept[0]["ratio"]), ("eager-bmm", 4))
        self.assertNotIn("error", kept[0])
        self.assertIn("compiled not measured", kept[-1]["error"])
        self.assertEqual((kept[-1]["ratio"], list(kept[-1]["groups"])), (4, ["eager"]))

    def test_a_group_without_a_ratio_is_not_the_fastest(self):
        real = compare_pytorch.PyTorch
        self.addCleanup(lambda: setattr(compare_pytorch, "PyTorch", real))
        started = []

        def once(name, batch, variant, *rest):
            started.append(variant)
            if started.count("compile-sdpa") > 1:
                raise RuntimeError("time limit")
            return real(name, batch, variant, *rest)

        compare_pytorch.PyTorch = once
        self.args.variants = ["eager-bmm", "compile-sdpa", "compile-bmm"]
        record = self.compare()
        self.assertEqual((record["best"], record["ratio"], record["error"]),
                         ("eager-bmm", 4, "time limit"))

    def test_variants_leave_time_to_measure_in_turn(self):
        self.args.deadline = time.monotonic() + compare_pytorch.RESTART_SECONDS
        record = self.compare()
        self.assertEqual(record["groups"], {})
        self.assertEqual(record["variants"]["eager-bmm"], dict(error="not begun: time limit"))
        self.assertIn("compiled", record["error"])

    def test_without_vitrine_pytorch_alone_is_measured(self):
        self.args.vitrine = str(self.path / "none")
        record = self.compare()
        self.assertEqual(record["best"], "joint-bmm-gelu")
        self.assertNotIn("ratio", record)

    def test_a_benchmark_that_fails_is_an_error_of_the_model(self):
        self.write("vitrine.sh", "#!/bin/sh\necho no memory >&2\nexit 1\n")
        record = self.compare()
        self.assertIn("no memory", record["error"])
        self.assertNotIn("ratio", record)

    def test_names_of_variants(self):
        for name in ("eager-sdpa", "graph-cudnn-conv-pruned", "joint-timm"):
            self.assertEqual(compare_pytorch.variant_name(name), name)
        for name in ("eager", "lazy-sdpa", "eager-best", "eager-sdpa-fast", "eager-timm-conv",
                     "eager-bmm-pruned-conv"):
            with self.assertRaisesRegex(compare_pytorch.argparse.ArgumentTypeError, name):
                compare_pytorch.variant_name(name)


if __name__ == "__main__":
    unittest.main()
