#!/usr/bin/env python3
"""What ternary weights cost in accuracy: networks of presets/ beside their float32 twins, trained by `bitlab train` with the same settings.

  python3 benchmarks/accuracy/runs.py                                every run whose data are there
  python3 benchmarks/accuracy/runs.py text_classifier_sst2 --data labelled_text=sst2
  python3 benchmarks/accuracy/runs.py resnet20_cifar10 --data cifar10=cifar10-jpg --threads 2

Results go to benchmarks/results/accuracy.json after each run, the runs themselves to out/accuracy. A call goes on where another was stopped: runs that
are finished are not trained again, and the one that was under way continues from its checkpoint to the same bits.

Needs PyYAML and, for text_classifier_sst2, tokenizers; both are in .venv after `make test`.

Pictures of CIFAR-10 that are files in folders (<root>/train/<class>/...) are read in place of the original binary files; the results say which.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import outcome  # noqa: E402
import training  # noqa: E402

RESULTS = ROOT / "benchmarks/results/accuracy.json"
FLOAT = ["--quant=none", "--quant.rules=[]"]


@dataclass
class Run:
    metric: str  # of report.json
    seeds: int = 1
    # Flags of the ternary network alone, where it begins with its float twin and learns from it.
    from_float: list[str] = field(default_factory=list)
    word_pieces: int = 0  # of the training texts, as the tokenizer


RUNS = {
    "lenet5_mnist": Run("accuracy", seeds=3),
    "gpt_shakespeare": Run("loss", from_float=["--train.distillation=0.5", "--train.temperature=1"]),
    "text_classifier_sst2": Run("accuracy", seeds=3, word_pieces=4000),
    "resnet20_cifar10": Run("accuracy", from_float=["--train.distillation=0.5", "--train.temperature=4"]),
    "vgg7_cifar10": Run("accuracy"),
}


def made_tokenizer(texts: Path, pieces: int, path: Path) -> Path:
    """A WordPiece tokenizer of the first column of a file, by the package `tokenizers`."""
    import tokenizers

    if not path.exists():
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        lines = texts.read_text().splitlines()
        tokenizer.train_from_iterator(
            (line.split("\t")[0] for line in lines), tokenizers.trainers.WordPieceTrainer(vocab_size=pieces, special_tokens=["[UNK]"])
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(path))
    return path


def value(report: dict[str, Any], metric: str) -> float:
    """Accuracy in percent; the loss of the next token in nats."""
    test = report["test"]
    return 100 * float(test["accuracy"]) if metric == "accuracy" else float(test["loss"])


def so_far(folder: Path) -> list[dict[str, float]]:
    """What a run that is under way has reached on its validation samples, epoch by epoch."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    return [{kind: round(event[f"validation.{kind}"], 5) for kind in ("accuracy", "loss") if f"validation.{kind}" in event} for event in evaluations]


def write(path: Path, part: str, name: str, results: dict[str, Any]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {"runs": {}}
    known |= {"command": "python3 benchmarks/accuracy/runs.py", "cpu": outcome.cpu()}
    known.get("under_way", {}).pop(name, None)
    known.setdefault(part, {})[name] = results
    outcome.replace(path, known)


def without_training(bitlab: Path, twin: Path, preset: Path, samples: int, threads: int) -> dict[str, Any]:
    """The test samples' results of float twins that `bitlab deploy` quantizes, by what is quantized: as run by the torch-free runtime."""
    quant, data = (yaml.safe_load((preset if key == "quant" else twin / "config.yaml").read_text())[key] for key in ("quant", "data"))
    where = [f"--data={data['name']}", *([f"--data-root={data['root']}"] if data["root"] else [])]
    where += [f"--data-option={key}={of}" for key, of in data["options"].items()]
    results: dict[str, Any] = {"samples": samples}
    with tempfile.TemporaryDirectory() as folder:
        rules, model = Path(folder) / "rules.yaml", Path(folder) / "model.bit"
        for kind, of in {"ternary": quant, "int8": {"method": "int8", "granularity": quant["granularity"]}}.items():
            rules.write_text(yaml.safe_dump(of))
            command = [str(bitlab), "deploy", str(twin), f"--samples={samples}", f"--rules={rules}", "-o", str(model)]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
            command = [str(bitlab), "run", str(model), *where, f"--threads={threads}", "--json"]
            ran = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            results[kind] = round(100 * ran["accuracy"] if "accuracy" in ran else ran["loss"], 4)
    return results


def outcome_of(report: dict[str, Any], metric: str) -> dict[str, Any]:
    curve = [{k: round(v, 5) for k, v in {"loss": e["loss"], **e["validation"]}.items()} for e in report["epochs"]]
    return {"test": round(value(report, metric), 4), "best_epoch": report["best_epoch"], "curve": curve}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help=f"of {', '.join(RUNS)}; all by default")
    parser.add_argument("--bitlab", type=Path, default=ROOT / "build/release/bin/bitlab", help="the program")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=ROOT", help="where the data set of that name is")
    parser.add_argument("--runs-folder", type=Path, default=ROOT / "out/accuracy", help="where runs are kept")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where results are kept")
    parser.add_argument("--samples", type=int, default=512, help="training samples that quantization without training sees; 0: that is left out")
    parser.add_argument("--threads", type=int, default=1, help="threads of a run")
    parser.add_argument("--so-far", action="store_true", help="train nothing: keep what runs that are under way have reached")
    args = parser.parse_args()
    if unknown := [name for name in args.runs if name not in RUNS]:
        parser.error(f"expected runs of {', '.join(RUNS)}, got {', '.join(unknown)}")
    for name in args.runs or RUNS:
        run, preset = RUNS[name], ROOT / "presets" / f"{name}.yaml"
        if args.so_far:
            epochs = yaml.safe_load(preset.read_text())["train"]["epochs"]
            curves = {kind: so_far(args.runs_folder / name / "1" / kind) for kind in ("float", "ternary")}
            write(args.output, "under_way", name, {"epochs": epochs, **curves})
            continue
        source = "the data set of the preset"
        flags = [f"--config={preset}", f"--threads={args.threads}"]
        for entry in args.data:
            data, root = entry.split("=", 1)
            if f"name: {data}" not in preset.read_text():
                continue
            if run.word_pieces > 0:
                tokenizer = made_tokenizer(Path(root) / "train.tsv", run.word_pieces, args.runs_folder / name / "tokenizer.json")
                options = yaml.safe_load(preset.read_text())["data"]["options"]
                flags.append(f"--data-options={json.dumps({**options, 'tokenizer': str(tokenizer.resolve())})}")
            is_folder = data.startswith("cifar") and (Path(root) / "train").is_dir()
            flags += [f"--data-root={root}", *(["--data=folder"] if is_folder else [])]
            if is_folder:
                source = "pictures in folders"
        results: dict[str, Any] = {"preset": f"presets/{name}.yaml", "metric": run.metric, "data": source, "threads": args.threads, "seeds": {}}
        results["from_float"] = run.from_float
        for seed in range(1, run.seeds + 1):
            folder = args.runs_folder / name / str(seed)
            own = [*flags, f"--seed={seed}"]
            pair = {"float": outcome_of(training.report_of(args.bitlab, folder / "float", own + FLOAT), run.metric)}
            if run.from_float:
                twin = folder / "float"
                own.append(f"--train.init_from={twin}")
                # What as many epochs more bring to the float network itself.
                pair["float_continued"] = outcome_of(training.report_of(args.bitlab, folder / "float_continued", own + FLOAT), run.metric)
                own += [f"--train.teacher={twin}", *run.from_float]
            pair["ternary"] = outcome_of(training.report_of(args.bitlab, folder / "ternary", own), run.metric)
            if seed == 1 and args.samples > 0:
                results["without_training"] = without_training(args.bitlab, folder / "float", preset, args.samples, args.threads)
            results["seeds"][str(seed)] = pair
            print(name, seed, {kind: of["test"] for kind, of in pair.items()}, flush=True)
        write(args.output, "runs", name, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
