"""What the benchmark programs call their work and say of their machine, as the tools read it.

  python3 tests/bench_names_test.py BUILD

of the programs that are built there; exit status 77 where none is. With PyTorch, each name of a
quick run is also made a peer of.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
sys.dont_write_bytecode = True

import benchmark_json  # noqa: E402

ROWS, TOKENS, PATCHES = ["rows", "cols"], ["B", "T", "D"], ["B", "C", "size", "p"]
ATTENTION, UPDATE = ["B", "T", "Tq", "H", "d"], ["n"]
# Keys that a peer is made of, and words that say more of the work than the peer could guess.
PEERS = dict(attention_forward=(ATTENTION, []), attention_backward=(ATTENTION, []),
             layer_norm_forward=(ROWS, []), layer_norm_backward=(ROWS, ["skip"]),
             activation_forward=(ROWS, ["bias", "derivative"]),
             activation_backward=(ROWS, ["bias", "derivative"]),
             residual_forward=(ROWS, []), column_sum=(ROWS, []),
             tokens_forward=(TOKENS, []), tokens_backward=(TOKENS, []),
             matmul=(["m", "n", "k"], []), cross_entropy=(["B", "K"], ["smoothing"]),
             patch_embed_forward=(PATCHES, []), patch_convolution_forward=([*PATCHES, "D"], []),
             patch_convolution_backward=([*PATCHES, "D"], []),
             adamw=(UPDATE, []), gradient_norm=(UPDATE, []))
ALONE = {"add", "residual_backward", "scale_columns_forward", "scale_columns_backward",
         "take_samples", "add_samples", "pool_forward", "pool_backward", "per_head_linear_forward",
         "per_head_linear_backward", "patch_embed_backward", "sum_parts",
         "matmul+activation_forward", "patch_embed+patch_convolution_forward"}
NO_PEER = ("dropout", "views")  # words of names without one
BUILD = Path()


def programs():
    """Those of kernels; none that is older than its source."""
    sources = [path for path in sorted((ROOT / "bench").glob("*_bench.cpp"))
               if path.stem != "train_step_bench"]
    built = [(source, BUILD / source.stem) for source in sources]
    return [program for source, program in built
            if program.exists() and program.stat().st_mtime >= source.stat().st_mtime]


def names_of(program, **settings):
    result = subprocess.run([program, "--benchmark_list_tests"], text=True, check=True,
                            capture_output=True, env={**os.environ, **settings})
    return [benchmark_json.split_name(line) for line in result.stdout.splitlines()]


def has_peer(operation, words):
    return operation in PEERS and not any(word in words for word in NO_PEER)


class Names(unittest.TestCase):
    def check(self, name, types):
        operation, keys, words = benchmark_json.parse_name(name)
        self.assertEqual(len([word for word in words if word in types]), 1, "precision")
        if operation in ALONE:
            return
        self.assertIn(operation, PEERS, "neither with a peer nor without")
        needed, told = PEERS[operation]
        for key in needed:
            self.assertGreater(keys.get(key, 0), 0, key)
        for word in told:
            self.assertIn(word, words)

    def test_every_name_says_what_a_peer_needs(self):
        for program in programs():
            for device, types in (("cpu", ["f32"]), ("cuda", ["f32", "tf32", "bf16"])):
                for quick in "01":
                    names = names_of(program, VITRINE_DEVICE=device, VITRINE_BENCH_QUICK=quick)
                    self.assertTrue(names, program.name)
                    for name, _ in names:
                        with self.subTest(name=name, device=device):
                            self.check(name, types)

    def test_two_benchmarks_have_two_names(self):
        for program in programs():
            names = names_of(program, VITRINE_DEVICE="cuda", VITRINE_BENCH_QUICK="0")
            self.assertEqual(len(names), len(set(names)), program.name)

    @unittest.skipUnless(importlib.util.find_spec("torch"), "PyTorch is not installed")
    def test_pytorch_has_the_peers_of_the_table(self):
        import pytorch_kernels, pytorch_products  # noqa: F401, E401: they fill the catalogue
        from pytorch_work import NoPeer, work_of
        for program in programs():
            for name, peer in names_of(program, VITRINE_DEVICE="cpu", VITRINE_BENCH_QUICK="1"):
                operation, keys, words = benchmark_json.parse_name(name)
                with self.subTest(name=name):
                    if peer is None and has_peer(operation, words):
                        self.assertTrue(work_of(operation, keys, words, "cpu", False).peers)
                    elif peer is None:
                        with self.assertRaises(NoPeer):
                            work_of(operation, keys, words, "cpu", False)


class Context(unittest.TestCase):
    def test_a_run_says_device_threads_and_calls_side_by_side(self):
        for program in programs()[:1]:
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / "run.json"
                subprocess.run([program, f"--benchmark_out={path}", "--benchmark_out_format=json"],
                               check=True, capture_output=True,
                               env={**os.environ, "VITRINE_DEVICE": "cpu", "VITRINE_THREADS": "3",
                                    "VITRINE_BENCH_QUICK": "1"})
                self.assertEqual(benchmark_json.context_of(path), ("cpu", 3))
                entries = json.loads(path.read_text())["benchmarks"]
                for entry in entries:
                    chunk = "one for each worker" in entry["label"]
                    self.assertEqual(entry["side_by_side"], 3 if chunk else 1, entry["name"])


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    BUILD = Path(sys.argv.pop(1)).resolve()
    if not programs():
        print("no benchmark is built")
        sys.exit(77)
    unittest.main()
