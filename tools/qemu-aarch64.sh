#!/bin/sh
# Runs a program for 64-bit Arm. BITLAB_QEMU_CPU: the CPU to be, "max" (every extension) by default.
exec qemu-aarch64 -cpu "${BITLAB_QEMU_CPU:-max}" "$@"
