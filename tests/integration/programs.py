"""Runs the programs of the build, for the tests in this folder."""

import os
import subprocess
from pathlib import Path

BINARY = Path(os.environ["BITLAB_BINARY_DIR"])
EMULATOR = os.environ.get("BITLAB_EMULATOR", "")  # runs the programs of another architecture


def run(program, *arguments, kernel=None, env=None):
    """The completed process; BITLAB_KERNEL is set to `kernel` alone."""
    environment = {k: v for k, v in os.environ.items() if k != "BITLAB_KERNEL"}
    environment.update(env or {})
    if kernel is not None:
        environment["BITLAB_KERNEL"] = kernel
    command = [*EMULATOR.split(), str(BINARY / "bin" / program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def check_refused(test, result, code, *texts):
    """The program failed with `code` and one line on stderr that holds the texts."""
    test.assertEqual(result.returncode, code, result.stderr)
    lines = result.stderr.splitlines()
    test.assertEqual(len(lines), 1, result.stderr)
    for text in texts:
        test.assertIn(text, lines[0])
