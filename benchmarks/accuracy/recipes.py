#!/usr/bin/env python3
"""What each recipe for training ternary weights does to the same network, alone: the loss of a small language model of bytes on tinyshakespeare's test
text, beside the ternary network without any and its float32 twin.

  python3 benchmarks/accuracy/recipes.py --take --seeds 1

Without --take the table is printed and nothing is written. Runs that are finished are not trained again.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import outcome  # noqa: E402
import training  # noqa: E402

RESULTS = ROOT / "benchmarks/results/recipes.json"
SETTINGS = ["--model=gpt", "--model.layers=2", "--model.dim=64", "--model.heads=2", "--model.hidden=256", "--model.sub_norm=false",
            "--data=tinyshakespeare", "--data-options={tokens: 64}", "--quant=absmean", "--granularity=channel",
            "--train.batch_size=32", "--train.learning_rate=0.003", "--train.weight_decay=0.05", "--train.precision=bfloat16"]  # fmt: skip
FLOAT = "--quant=none"
# {float} is the folder of the float32 twin of the same seed.
TEACHER = ["--train.teacher={float}", "--train.distillation=0.5"]
MUON = ["--train.optimizer=muon", "--train.momentum=0.95", "--train.learning_rate=0.01"]
RECIPES: dict[str, list[str]] = {
    "float32": [FLOAT],
    "ternary": [],
    "ternary_delay 0.3": ["--train.ternary_delay=0.3"],
    "ternary_warmup 0.5": ["--train.ternary_warmup=0.5"],
    "ternary_warmup 0.5, first_to_last": ["--train.ternary_warmup=0.5", "--train.ternary_order=first_to_last"],
    "ternary_warmup 0.5, last_to_first": ["--train.ternary_warmup=0.5", "--train.ternary_order=last_to_first"],
    "model.sub_norm": ["--model.sub_norm=true"],
    "freeze_oscillation 0.02": ["--train.freeze_oscillation=0.02"],
    "ema 0.99": ["--train.ema=0.99"],
    "muon": MUON,
    "float32, muon": [FLOAT, *MUON],
    "adamw, learning_rate 0.006": ["--train.learning_rate=0.006"],
    "float32, adamw, learning_rate 0.006": [FLOAT, "--train.learning_rate=0.006"],
    "two_phase": ["--train.schedule=two_phase"],
    "distillation 0.5": TEACHER,
    "distillation 0.5, feature_distillation 1": [*TEACHER, "--train.feature_distillation=1", "--train.feature_layers=[{{path: '*.down_proj'}}]"],
    "distillation 0.5, relation_distillation 0.1": [*TEACHER, "--train.relation_distillation=0.1", "--train.relation_heads=2"],
    "init_from its twin": ["--train.init_from={float}"],
    "init_from its twin, distillation 0.5": ["--train.init_from={float}", *TEACHER],
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bitlab", type=Path, default=ROOT / "build/release/bin/bitlab", help="the program")
    parser.add_argument("--runs-folder", type=Path, default=ROOT / "out/recipes", help="where runs are kept")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a run")
    parser.add_argument("--seeds", type=int, default=1, help="seeds, from 1")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--take", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    args = parser.parse_args()
    losses: dict[str, list[float]] = {recipe: [] for recipe in RECIPES}
    for seed in range(1, args.seeds + 1):
        twin = args.runs_folder / str(seed) / "float32"
        for recipe, flags in RECIPES.items():
            own = [flag.format(float=twin) for flag in flags]
            folder = args.runs_folder / str(seed) / re.sub(r"[^a-z0-9.]+", "_", recipe)
            common = [*SETTINGS, f"--train.epochs={args.epochs}", f"--threads={args.threads}", f"--seed={seed}"]
            given = {flag.partition("=")[0]: flag for flag in [*common, *own]}  # a recipe's win
            report = training.report_of(args.bitlab, folder, list(given.values()), quiet=True)
            losses[recipe].append(round(float(report["test"]["loss"]), 5))
            print(f"{recipe:45} {losses[recipe][-1]:.4f}  mean {statistics.mean(losses[recipe]):.4f}", flush=True)
    results: dict[str, Any] = {"command": f"python3 benchmarks/accuracy/recipes.py --take --seeds {args.seeds}", "cpu": outcome.cpu(), "epochs": args.epochs}
    results |= {"flags": SETTINGS, "losses": losses}
    if args.take:
        outcome.replace(RESULTS, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
