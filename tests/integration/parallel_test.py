"""Two processes that train one network: the steps of one with twice the batch, the same bits after a kill, one line where one is gone."""

import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

from programs import command_of, losses, run, start_two

# Nothing that looks at a whole batch; samples that two processes share evenly.
ARGUMENTS = ["train", "--model", "mlp", "--data", "synthetic", "--limit", "320", "--validation", "0.2", "--threads", "1",
             "--set", "model.hidden=[96]", "--crop", "2", "--clip-norm", "1", "--checkpoint-steps", "1", "--log.steps", "1"]  # fmt: skip

THREE = ["--epochs", "3"]


class Parallel(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="bitlab_parallel_"))
        self.addCleanup(shutil.rmtree, self.folder)

    def finish(self, processes):
        """What each one printed, and that it succeeded."""
        outputs = [process.communicate(timeout=300) for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0], [error for _, error in outputs])
        return [out for out, _ in outputs]

    def test_are_one_with_twice_the_batch(self):
        one = self.folder / "one"
        self.assertEqual(run("bitlab", *ARGUMENTS, *THREE, "--batch-size", "32", "-o", one).returncode, 0)
        for name, arguments, tolerance in (
            ("two", ["--batch-size", "16"], 1e-4),
            ("accumulated", ["--batch-size", "8", "--accumulate", "2"], 1e-4),
            ("narrow", ["--batch-size", "16", "--ternary-gradients", "bfloat16"], 2e-2),
        ):
            with self.subTest(name):
                first, second = self.finish(start_two(*ARGUMENTS, *THREE, *arguments, "-o", self.folder / name))
                self.assertIn("2 processes", first)
                self.assertEqual(second, "")
                found = losses(self.folder / name)
                if "--accumulate" in arguments:
                    found = [(a + b) / 2 for a, b in zip(found[::2], found[1::2], strict=True)]
                expected = losses(one)
                self.assertEqual(len(found), len(expected))
                self.assertLess(expected[-1], 0.9 * expected[0])
                for a, b in zip(found, expected, strict=True):
                    self.assertAlmostEqual(a, b, delta=tolerance * expected[0])

    def test_a_killed_process_stops_all_and_they_go_on_to_the_same_bits(self):
        arguments = [*ARGUMENTS, "--batch-size", "8", "--mixup", "0.2", "--epochs", "6"]
        whole, killed = self.folder / "whole", self.folder / "killed"
        self.finish(start_two(*arguments, "-o", whole))
        seed = random.randrange(1 << 30)
        moments = random.Random(seed)
        processes = start_two(*arguments, "-o", killed)
        while not (killed / "last.ckpt").exists() and processes[0].poll() is None:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.3))
        was_running = processes[1].poll() is None
        processes[1].kill()
        error = processes[0].communicate(timeout=300)[1]
        processes[1].communicate()
        if was_running and processes[0].returncode != 0:  # not at the very end
            self.assertEqual(processes[0].returncode, 3, error)
            self.assertRegex(error, r"^bitlab: error: \[train\] all 2 processes, got one that is gone: .*--resume.*\n$")
        self.finish(start_two("train", "--resume", "-o", killed))
        self.assertEqual((killed / "best.ckpt").read_bytes(), (whole / "best.ckpt").read_bytes(), f"seed {seed}")

    def test_torchrun_starts_them(self):
        folder = self.folder / "torchrun"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
        command = [*launcher, *command_of("bitlab", *ARGUMENTS, *THREE, "--batch-size", "16", "-o", folder)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(json.loads((folder / "environment.json").read_text())["processes"], 2)

    def test_a_signal_to_one_stops_all(self):
        folder = self.folder / "signal"
        processes = start_two(*ARGUMENTS, "--batch-size", "2", "--epochs", "50", "-o", folder)
        while not (folder / "last.ckpt").exists() and processes[0].poll() is None:
            time.sleep(0.002)
        processes[1].send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=300)[1] for process in processes]
        self.assertIn("stopped by another process", errors[0])
        self.assertIn("stopped by SIGTERM", errors[1])
        self.assertEqual(processes[1].returncode, 143)
        one = run("bitlab", "train", "--resume", "-o", folder)
        self.assertNotEqual(one.returncode, 0)
        self.assertIn("as many processes as the checkpoint is of, 2, got 1", one.stderr)


if __name__ == "__main__":
    unittest.main()
