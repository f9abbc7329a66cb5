"""Runs of training that end before their time: by SIGKILL at any moment, by Ctrl-C, by a full disk. They go on to the same bits."""

import json
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
import unittest
from pathlib import Path

from programs import check_refused, command_of, run

# Everything that a step, an evaluation and a checkpoint may have.
ARGUMENTS = ["train", "--model", "mlp", "--data", "synthetic", "--limit", "300", "--epochs", "4", "--batch-size", "20", "--threads", "1",
             "--workers", "1", "--crop", "2", "--set", "model.hidden=[96]", "--accumulate", "2", "--clip-norm", "1", "--label-smoothing", "0.1",
             "--mixup", "0.2", "--ema", "0.9", "--precision", "bfloat16", "--ternary-delay", "0.1", "--ternary-warmup", "0.5", "--statistics-batches", "2",
             "--freeze-oscillation", "0.1", "--oscillation-momentum", "0.2", "--patience", "50", "--evaluate-steps", "3",
             "--keep-best", "3", "--keep-last", "2", "--checkpoint-steps", "1"]  # fmt: skip


def timeless(folder):
    """The report without what a clock says."""
    report = json.loads((folder / "report.json").read_text())
    epochs = [{k: v for k, v in epoch.items() if not k.startswith("seconds")} for epoch in report["epochs"]]
    return {**report, "epochs": epochs, "seconds": 0}


class Interrupted(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="bitlab_interrupted_"))
        cls.whole = cls.folder / "whole"
        begin = time.monotonic()
        result = run("bitlab", *ARGUMENTS, "-o", cls.whole)
        cls.seconds = time.monotonic() - begin
        assert result.returncode == 0, result.stderr

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder)

    def start(self, folder, *arguments):
        return subprocess.Popen(command_of("bitlab", *arguments, "-o", folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def wait_for(self, path, process):
        while not path.exists() and process.poll() is None:
            time.sleep(0.002)

    def check_same(self, folder):
        names = {p.name for p in folder.iterdir() if ".tmp." not in p.name}  # those of a write that was killed
        self.assertEqual(names, {p.name for p in self.whole.iterdir()})
        self.assertEqual(sum(name.startswith("best-") for name in names), 3, names)
        self.assertEqual(sum(name.startswith("last-") for name in names), 2, names)
        for name in names:
            if name.startswith("best"):
                self.assertEqual((folder / name).read_bytes(), (self.whole / name).read_bytes(), name)
        self.assertEqual(timeless(folder), timeless(self.whole))

    def test_killed_at_random_moments(self):
        folder = self.folder / "killed"
        seed = random.randrange(1 << 30)
        moments = random.Random(seed)
        for attempt in range(8):
            arguments = ARGUMENTS if attempt == 0 else ["train", "--resume"]
            with self.start(folder, *arguments) as process:
                self.wait_for(folder / ("preprocess.json" if attempt == 0 else "last.ckpt"), process)
                time.sleep(moments.uniform(0, 0.5 * self.seconds))
                process.kill()
        result = run("bitlab", "train", "--resume", "-o", folder)
        self.assertEqual(result.returncode, 0, f"{result.stderr} (seed {seed})")
        self.check_same(folder)

    def test_signals_end_a_run_behind_a_checkpoint(self):
        for name, code in (("SIGINT", 130), ("SIGTERM", 143)):
            with self.subTest(name):
                folder = self.folder / name
                with self.start(folder, *ARGUMENTS) as process:
                    self.wait_for(folder / "last.ckpt", process)
                    process.send_signal(getattr(signal, name))
                    stderr = process.communicate()[1]
                self.assertEqual(process.returncode, code, stderr)
                self.assertRegex(stderr, rf"^bitlab: \[train\] .*stopped by {name}, to go on: bitlab train --resume -o {folder}\n$")
                command = stderr.split("to go on: bitlab ")[1].split()
                check_refused(self, run("bitlab", *command, "--epochs", "4"), 2, "--resume", "--epochs")
                result = run("bitlab", *command)
                self.assertEqual(result.returncode, 0, result.stderr)
                self.check_same(folder)

    def test_a_full_disk_leaves_the_last_checkpoint(self):
        folder = self.folder / "full"
        with self.start(folder, *ARGUMENTS) as process:
            self.wait_for(folder / "last.ckpt", process)
            process.send_signal(signal.SIGINT)
            process.communicate()
        before = {p.name: p.read_bytes() for p in folder.iterdir()}

        def limit_files():  # as a disk without space for a whole checkpoint
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))

        command = command_of("bitlab", "train", "--resume", "-o", folder)
        result = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit_files, timeout=300)
        check_refused(self, result, 3, "[file]", "File too large", ".ckpt")
        self.assertEqual({p.name: p.read_bytes() for p in folder.iterdir()}, before)
        result = run("bitlab", "train", "--resume", "-o", folder)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.check_same(folder)

    def test_folders_that_are_none(self):
        check_refused(self, run("bitlab", "train", "--resume", "-o", self.folder / "none"), 3, "config.yaml")
        file = self.folder / "file"
        file.write_text("")
        check_refused(self, run("bitlab", *ARGUMENTS, "-o", file), 3, str(file))


if __name__ == "__main__":
    unittest.main()
