"""bitlab-run on the golden model: every command, and its manners."""

import json
import os
import struct
import subprocess
import tempfile
import unittest
from pathlib import Path

from programs import BINARY, check_refused, command_of, run

SOURCE = Path(os.environ["BITLAB_SOURCE_DIR"])
MODEL = SOURCE / "tests" / "golden" / "lenet5.bit"
EMULATED = BINARY / "lib" / "libbitlab_cuda_emulated.so"  # a device that the host plays


class Manners(unittest.TestCase):
    def test_version_tells_build_and_machine(self):
        result = run("bitlab-run", "--version")
        self.assertEqual(result.returncode, 0)
        for word in ("bitlab-run", "build", "machine"):
            self.assertIn(word, result.stdout)

    def test_help_lists_commands_and_options(self):
        self.assertIn("run", run("bitlab-run", "--help").stdout)
        options = run("bitlab-run", "run", "--help").stdout
        for option in ("--data", "--input", "--logits", "--threads", "--batch", "--json"):
            self.assertIn(option, options)

    def test_usage_errors(self):
        check_refused(self, run("bitlab-run"), 2, "subcommand")
        check_refused(self, run("bitlab-run", "walk"), 2, "a command", "'walk'")
        check_refused(self, run("bitlab-run", "inspekt", "a.bit"), 2, "'inspekt'", "'inspect'")
        check_refused(self, run("bitlab-run", "run"), 2, "model")
        check_refused(self, run("bitlab-run", "run", "a.bit", "--thread", "1"), 2, "'--thread'", "'--threads'")
        check_refused(self, run("bitlab-run", "run", "a.bit", "--data", "mnist", "--limit", "-1"), 2, "--limit", "-1")
        for policy in ("gemm", "ternary_gemm", "gemm:reference", "ternary_gemm:abacus"):
            check_refused(self, run("bitlab-run", "kernels", "list", kernel=policy), 2, f"'{policy}'")
        check_refused(self, run("bitlab-run", "run", "a.bit"), 2, "--data or --input")
        check_refused(self, run("bitlab-run", "run", "a.bit", "--data", "mnist", "--batch", "0"), 2, "--batch")

    def test_a_device_that_is_none_and_one_that_is_not_there(self):
        check_refused(self, run("bitlab-run", "benchmark", MODEL, "--device", "gpu"), 2, "'cuda:<number>'", "'gpu'")
        nowhere = {"BITLAB_CUDA_PLUGIN": "/none/libbitlab_cuda.so"}
        for command in (("run", "--data", "synthetic"), ("benchmark",), ("profile",), ("inspect",)):
            refused = run("bitlab-run", command[0], MODEL, *command[1:], "--device", "cuda", env=nowhere)
            check_refused(self, refused, 4, "libbitlab_cuda.so", "BITLAB_CUDA", "/none/")

    def test_no_number_is_out_of_every_range(self):
        check_refused(self, run("bitlab-run", "benchmark", MODEL, "--seconds", "nan"), 2, "--seconds", "nan", "3600")
        check_refused(self, run("bitlab-run", "verify", MODEL, MODEL, "--tolerance", "-NaN"), 2, "--tolerance", "NaN")

    def test_output_that_is_lost_is_an_error(self):
        for command in (["--version"], ["--help"], ["kernels", "list"], ["inspect", MODEL], ["inspect", MODEL, "--json"]):
            with open("/dev/full", "w") as full:
                result = subprocess.run(command_of("bitlab-run", *command), stdout=full, stderr=subprocess.PIPE, text=True)
            check_refused(self, result, 3, "No space left on device", "stdout")
        with tempfile.TemporaryDirectory() as folder:  # whose file must not be the closed stdout
            logits = Path(folder) / "logits"
            command = command_of("bitlab-run", "run", MODEL, "--data", "synthetic", "--limit", "3", "--logits", logits)
            closed = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True)
            check_refused(self, closed, 3, "stdout")
            self.assertEqual(logits.stat().st_size, 3 * 10 * 4)

    def test_an_error_is_one_line_whatever_a_name_holds(self):
        refused = run("bitlab-run", "inspect", "/none/a\nb\x1b[31m.bit")
        check_refused(self, refused, 3, "/none/a?b?[31m.bit")

    def test_missing_model(self):
        check_refused(self, run("bitlab-run", "run", "/none/a.bit", "--data", "mnist"), 3, "/none/a.bit")

    def test_no_colours_and_no_bars_without_a_terminal(self):
        result = run("bitlab-run", "run", MODEL, "--data", "synthetic", "--limit", "20")
        self.assertEqual(result.stderr, "")
        self.assertNotIn("\x1b", result.stdout)


class Commands(unittest.TestCase):
    def ok(self, *arguments, **options):
        result = run("bitlab-run", *arguments, **options)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_verify_compares_two_files(self):
        self.assertIn("agree to the bit on 5 samples", self.ok("verify", MODEL, MODEL, "--samples", "5"))
        check_refused(self, run("bitlab-run", "verify", MODEL), 2, "two files")
        other = MODEL.parent / "operations_1.bit"
        result = run("bitlab-run", "verify", MODEL, other)
        check_refused(self, result, 1, "the signature", "operations_1.bit")

    def test_inspect_counts_what_the_architecture_has(self):
        facts = json.loads(self.ok("inspect", MODEL, "--json"))
        ternary = 20 * 25 + 50 * 500 + 500 * 800 + 10 * 500
        scales = biases = 20 + 50 + 500 + 10
        self.assertEqual(facts["ternary_weights"], ternary)
        self.assertEqual(facts["weights"], ternary + biases)
        codes = 20 * 5 + 50 * 100 + 500 * 160 + 10 * 100  # five weights a byte, rows padded to bytes
        self.assertEqual(facts["weight_file_bytes"], codes + 4 * (scales + biases))
        self.assertEqual(facts["file_bytes"], MODEL.stat().st_size)
        self.assertTrue(facts["exact"])
        nodes = {node["node"]: node for node in facts["nodes"]}
        self.assertEqual(nodes["fc1"]["output"], "[batch, 500]")
        self.assertEqual(nodes["fc1"]["weights"][0]["granularity"], "channel")
        self.assertGreater(nodes["fc1"]["weights"][0]["sparsity"], 0.05)
        self.assertEqual(nodes["relu"]["inputs"], ["conv1"])
        self.assertEqual([n["node"] for n in facts["nodes"] if n["exactness"] == "bounded"], [])

    def test_inspect_as_text_and_graph(self):
        text = self.ok("inspect", MODEL)
        self.assertIn(".bit version 0,", text)
        self.assertIn(".bit version 1,", self.ok("inspect", MODEL.parent / "operations_1.bit", "--size", "tokens=3"))
        for word in ("lenet5", "ternary_conv", "bits a weight", "channel", "ternary_gemm:"):
            self.assertIn(word, text)
        dot = self.ok("inspect", MODEL, "--dot")
        self.assertTrue(dot.startswith("digraph {"))
        self.assertIn('"fc1" -> "relu_2";', dot)
        self.assertEqual(dot.count("{"), dot.count("}"))

    def test_the_kernels_shown_are_the_kernels_forced(self):
        facts = json.loads(self.ok("inspect", MODEL, "--json", kernel="ternary_gemm:reference"))
        self.assertIn("ternary_gemm:reference", facts["nodes"][0]["kernels"])
        self.assertEqual(facts["nodes"][0]["weights"][0]["layout"], "rows")

    @unittest.skipUnless(EMULATED.exists(), "sanitizers and other architectures have no emulated device")
    def test_inspect_shows_where_nodes_run(self):
        def kernels(**environment):
            facts = json.loads(self.ok("inspect", MODEL, "--json", "--device", "cuda", env={"BITLAB_CUDA_PLUGIN": str(EMULATED), **environment}))
            return {node["node"]: node["kernels"] for node in facts["nodes"]}

        everywhere = kernels()
        self.assertEqual(everywhere["fc1"], "activation_quant:cuda ternary_gemm:cuda")
        for node, names in everywhere.items():
            self.assertTrue(names.startswith("within ") or all(name.endswith(":cuda") for name in names.split()), (node, names))
        some = kernels(BITLAB_HOST_OPS="ternary_linear")
        self.assertTrue(some["fc1"].startswith("host activation_quant:"), some["fc1"])
        self.assertEqual(some["conv1"], everywhere["conv1"])

    @unittest.skipUnless(EMULATED.exists(), "sanitizers and other architectures have no emulated device")
    def test_a_device_gives_the_bits_of_the_cpu(self):
        device = {"BITLAB_CUDA_PLUGIN": str(EMULATED)}
        with tempfile.TemporaryDirectory() as folder:
            command = ("run", MODEL, "--data", "synthetic", "--limit", "21", "--batch", "8", "--logits")
            self.ok(*command, Path(folder) / "cpu")
            self.ok(*command, Path(folder) / "cuda", "--device", "cuda", env=device)
            logits = (Path(folder) / "cpu").read_bytes()
            self.assertEqual((Path(folder) / "cuda").read_bytes(), logits)
            self.assertGreater(len(set(logits)), 2)
        facts = json.loads(
            self.ok("benchmark", MODEL, "--seconds", "0.05", "--json", env={**device, "BITLAB_DEVICE": "cuda:0"})
        )
        self.assertEqual(facts["device"], "cuda:0")
        self.assertTrue(all("cuda" in node["kernels"] for node in facts["nodes"]), facts["nodes"])
        profile = ("profile", MODEL, "--runs", "1", "--device", "cuda")
        self.assertRegex(self.ok(*profile, env=device), r"\ndevice +cuda:0, the host waits behind each step\n")
        self.assertEqual(json.loads(self.ok(*profile, "--json", env=device))["device"], "cuda:0")

    def test_benchmark(self):
        facts = json.loads(self.ok("benchmark", MODEL, "--batch", "3", "--threads", "1", "--seconds", "0.05", "--json"))
        latency = facts["latency_ms"]
        self.assertLessEqual(latency["least"], latency["p50"])
        self.assertLessEqual(latency["p50"], latency["p90"])
        self.assertLessEqual(latency["p90"], latency["p99"])
        self.assertAlmostEqual(facts["samples_per_s"], 3000 / latency["p50"], delta=1)
        self.assertAlmostEqual(sum(node["share"] for node in facts["nodes"]), 1.0, places=6)
        self.assertIn("throughput", self.ok("benchmark", MODEL, "--seconds", "0.05"))

    def test_profile(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            image = struct.pack("<1568f", *(i % 7 for i in range(1568)))
            (folder / "image.bin").write_bytes(image)
            options = ("--batch", "2", "--threads", "1", "--runs", "3", "--warmup", "1")
            command = ("profile", MODEL, "--input", f"input={folder / 'image.bin'}", *options)
            facts = json.loads(self.ok(*command, "--json", "--trace", folder / "t.json", "--html", folder / "p.html"))
            nodes = {node["node"]: node for node in facts["nodes"]}
            self.assertEqual(nodes["conv1"]["macs"], 2 * 20 * 24 * 24 * 25)
            self.assertEqual(nodes["fc1"]["macs"], 2 * 500 * 800)
            self.assertEqual(nodes["fc1"]["arithmetic"], "int8")
            self.assertEqual({node["calls"] for node in nodes.values()}, {3})
            self.assertLessEqual(sum(3 * node["mean_ms"] for node in nodes.values()), 3 * facts["run"]["mean_ms"])
            self.assertGreater(facts["roofs"]["int8_giga_macs_per_s"], 0)
            memory = facts["memory"]
            self.assertLessEqual(memory["lower_bound_bytes"], memory["planned_bytes"])
            self.assertEqual(memory["arena_bytes"], memory["planned_bytes"] + memory["scratch_bytes"])
            events = [event for event in json.loads((folder / "t.json").read_text())["traceEvents"] if event["ph"] == "X"]
            self.assertEqual(len(events), 3 * (len(nodes) + 1))
            page = (folder / "p.html").read_text()
            self.assertIn("<svg", page)
            self.assertNotIn("http", page)
            check_refused(self, run("bitlab-run", "profile", MODEL, "--input", f"input={folder / 'image.bin'}"), 2, "3136 bytes", "6272")
            check_refused(self, run("bitlab-run", "profile", MODEL, "--trace", folder / "none" / "t.json"), 3, "none")
        text = self.ok("profile", MODEL, *options, "--no-roofs")
        self.assertIn("ops/byte", text)
        self.assertNotIn("roofs", text)
        check_refused(self, run("bitlab-run", "profile", MODEL, "--input", "image=x.bin"), 2, "input", "image=x.bin")
        check_refused(self, run("bitlab-run", "profile", MODEL, "--runs", "0"), 2, "--runs")

    def test_inspect_passes(self):
        facts = json.loads(self.ok("inspect", MODEL, "--json", "--batch", "4"))
        passes = {(entry["stage"], entry["pass"]): entry for entry in facts["passes"]}
        fusion = passes["plan", "fusion"]
        self.assertEqual(fusion["before"], len(facts["nodes"]))
        within = sum(node["kernels"].startswith("within ") for node in facts["nodes"])
        self.assertEqual(fusion["after"], len(facts["nodes"]) - within)
        self.assertEqual(passes["load", "constants"]["before"], facts["weight_file_bytes"])
        self.assertEqual(passes["load", "constants"]["after"], facts["weight_memory_bytes"])
        memory = passes["plan", "memory"]
        profiled = json.loads(self.ok("profile", MODEL, "--json", "--batch", "4", "--runs", "1", "--no-roofs"))["memory"]
        self.assertEqual((memory["before"], memory["after"]), (profiled["all_value_bytes"], profiled["planned_bytes"]))
        check_refused(self, run("bitlab-run", "inspect", MODEL, "--passes", "--dot"), 2, "--dot")
        text = self.ok("inspect", MODEL, "--passes")
        for entry in facts["passes"]:
            self.assertIn(entry["pass"], text)
        self.assertIn("lower bound", text)

    def test_kernels(self):
        rows = json.loads(self.ok("kernels", "list", "--json"))
        self.assertIn(("ternary_gemm", "reference"), {(row["op"], row["kernel"]) for row in rows})
        self.assertIn("reference", self.ok("kernels", "list"))
        answer = json.loads(self.ok("kernels", "explain", "--machine", "scalar", "--json"))
        for op in answer["ops"]:
            verdicts = {v["kernel"]: v["verdict"] for v in op["kernels"]}
            self.assertEqual(verdicts["reference"], "Chosen")
            quicker = [verdict for kernel, verdict in verdicts.items() if kernel.startswith("x86_avx2")]
            self.assertTrue(quicker and set(quicker) <= {"MissingFeature", "NotBuilt"}, verdicts)
        self.assertIn("Chosen", self.ok("kernels", "explain", "--tokens", "64"))
        forced = json.loads(self.ok("kernels", "explain", "--json", kernel="ternary_gemm:reference"))
        others = {v["verdict"] for v in forced["ops"][0]["kernels"] if v["kernel"] != "reference"}
        self.assertEqual(others, {"DisabledByPolicy"})
        check_refused(self, run("bitlab-run", "kernels", "explain", "--machine", "abacus"), 2, "abacus", "avx2")

    def test_kernels_of_one_op(self):
        ops = {definition.parent.name for definition in SOURCE.glob("bitlab/kernels/*/kernels.def")}
        answers = json.loads(self.ok("kernels", "explain", "--json"))["ops"]
        self.assertEqual(sorted(answer["op"] for answer in answers), sorted(ops))
        for answer in answers:
            alone = json.loads(self.ok("kernels", "explain", "--op", answer["op"], "--json"))
            self.assertEqual(alone["ops"], [answer])
        table = self.ok("kernels", "explain", "--op", "reduction").splitlines()[4:]
        self.assertEqual({line.split()[0] for line in table}, {"reduction"})
        check_refused(self, run("bitlab-run", "kernels", "explain", "--op", "gemm"), 2, "an op of", "'gemm'", *ops)

    def test_completion_is_a_script_that_completes(self):
        script = self.ok("completion", "bash")
        probe = script + "\nCOMP_WORDS=(bitlab-run kernels ex); COMP_CWORD=2; _bitlab_run; echo \"${COMPREPLY[@]}\""
        result = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, cwd="/")
        self.assertEqual(result.stdout.split()[:1], ["explain"], result.stderr)
        self.assertIn("bashcompinit", self.ok("completion", "zsh"))
        check_refused(self, run("bitlab-run", "completion", "fish"), 2, "fish")

    def test_run_on_data_and_pictures(self):
        text = self.ok("run", MODEL, "--data", "synthetic", "--limit", "50")
        self.assertIn("accuracy", text)
        report = json.loads(self.ok("run", MODEL, "--data", "mnist", "--limit", "20", "--json", "--batch", "7"))
        self.assertEqual(report["images"], 20)
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder) / "digit.png"
            picture.write_bytes(b"not a picture")
            check_refused(self, run("bitlab-run", "run", MODEL, "--input", picture), 3, "PNG", "digit.png")
            check_refused(self, run("bitlab-run", "run", MODEL, "--input", Path(folder) / "none.png"), 3, "none.png")
        check_refused(self, run("bitlab-run", "run", MODEL, "--data", "mnist", "--data-root", "/none"), 3, "/none")


if __name__ == "__main__":
    unittest.main()
