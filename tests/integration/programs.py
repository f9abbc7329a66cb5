"""Runs the programs of the build, for the tests in this folder."""

import json
import os
import socket
import struct
import subprocess
import zlib
from pathlib import Path

BINARY = Path(os.environ["BITLAB_BINARY_DIR"])
EMULATOR = os.environ.get("BITLAB_EMULATOR", "")  # runs the programs of another architecture


def run(program, *arguments, kernel=None, env=None):
    """The completed process; BITLAB_KERNEL is set to `kernel` alone."""
    environment = {k: v for k, v in os.environ.items() if k != "BITLAB_KERNEL"}
    environment.update(env or {})
    if kernel is not None:
        environment["BITLAB_KERNEL"] = kernel
    return subprocess.run(command_of(program, *arguments), capture_output=True, text=True, env=environment, timeout=300)


def command_of(program, *arguments):
    return [*EMULATOR.split(), str(BINARY / "bin" / program), *map(str, arguments)]


def start_two(*arguments, env=None):
    """Two processes of `bitlab`, as torchrun would start them."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    together = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **(env or {})}
    command, pipe = command_of("bitlab", *arguments), subprocess.PIPE
    return [subprocess.Popen(command, env={**together, "RANK": str(rank)}, stdout=pipe, stderr=pipe, text=True) for rank in (0, 1)]


def losses(folder):
    """Those of a run's steps."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


def check_refused(test, result, code, *texts):
    """The program failed with `code` and one line on stderr that holds the texts."""
    test.assertEqual(result.returncode, code, result.stderr)
    lines = result.stderr.splitlines()
    test.assertEqual(len(lines), 1, result.stderr)
    for text in texts:
        test.assertIn(text, lines[0])


def grey_png(height, width, value=lambda y, x: 128):
    """A grey PNG, written by hand."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    scanlines = b"".join(b"\0" + bytes(value(y, x) for x in range(width)) for y in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(scanlines))
        + chunk(b"IEND", b"")
    )
