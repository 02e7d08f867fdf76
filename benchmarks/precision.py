"""How far do weights move at a large model's learning rate, by precision and strategy, and what does each rank keep?

    python benchmarks/precision.py

Trains the tiny base on two ranks, on the CPU with gloo, and writes benchmarks/precision.md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from actrep_nb.loading import ReadyExamples, make_example
from actrep_nb.models import Sample, encode, load_model
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.parallel import PRECISIONS, STRATEGIES, state_bytes, strategy_arguments, this_rank
from actrep_nb.records import Clip
from actrep_nb.sft import CountSFTTrainer, load_to_train, training_arguments
from actrep_nb.video import Frames

HEAD = """# Precision

`python benchmarks/precision.py`: the tiny model with random weights that bfloat16 can hold, as published checkpoints
have them; its language model trained on two ranks (two CPU cores, gloo) for {steps} steps of AdamW at a constant
learning rate of 1e-6. A weight counts as moved
when the number that learns (under DeepSpeed the float32 copy) is not what it was. Bytes are counted on rank 0:
parameters, gradients before an optimiser step, and what the optimiser holds.

| strategy | precision | weights moved | mean distance | weights, MB | gradients, MB | optimiser, MB | `state_bytes` |
|---|---|---|---|---|---|---|---|
"""


def local(t: Tensor) -> Tensor:
    "This rank's part of a tensor."
    return t.to_local() if isinstance(t, DTensor) else t


def size(tensors: Any) -> int:
    "Bytes, of each storage once."
    return sum(
        {
            (t := local(x)).untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for x in tensors
            if x is not None and x.numel()
        }.values()
    )


def full(p: Tensor) -> Tensor:
    "What learns of a parameter, whole."
    if hasattr(p, "ds_id") or hasattr(p, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_fp32_param

        if (master := safe_get_full_fp32_param(p)) is not None:
            return master.detach().float().clone()
    return (p.full_tensor() if isinstance(p, DTensor) else p).detach().float().clone()


class Watch(TrainerCallback):
    "Takes down the weights before and after, and the bytes that are kept."

    def __init__(self):
        self.kept: dict[str, int] = {}

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
        self.before = [full(p) for p in model.parameters() if p.requires_grad]
        inner = optimizer.optimizer
        if args.deepspeed:
            step = inner.step

            def counted(*a, **k):
                parts = getattr(inner, "_DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition", None)
                held = (
                    parts.values() if parts else [g for group in inner.averaged_gradients.values() for g in group or ()]
                )
                self.kept["gradients"] = sum(g.numel() * g.element_size() for g in held)
                return step(*a, **k)

            inner.step = counted

    def on_pre_optimizer_step(self, args, state, control, model=None, **_):
        if not args.deepspeed:
            self.kept["gradients"] = sum(
                local(p.grad).numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None
            )

    def on_train_end(self, args, state, control, model=None, optimizer=None, **_):
        after = [full(p) for p in model.parameters() if p.requires_grad]
        far = torch.cat([(a - b).abs().flatten().double() for a, b in zip(after, self.before)])
        own = [getattr(p, "ds_tensor", p) for p in model.parameters()]
        inner = optimizer.optimizer.optimizer if args.deepspeed else optimizer.optimizer
        states = [t for s in inner.state.values() for t in s.values() if isinstance(t, Tensor) and t.numel() > 1]
        masters = [p for group in inner.param_groups for p in group["params"]] if args.deepspeed else []
        masters += [
            m
            for group in (getattr(optimizer.optimizer, "fp32_partitioned_groups_flat", ()) if args.deepspeed else ())
            for m in [group]
        ]
        self.kept |= {
            "weights": sum(local(p).numel() * p.element_size() for p in own),
            "optimiser": size([*states, *masters]),
        }
        self.result = {
            "moved": (far > 0).double().mean().item(),
            "distance": far.mean().item(),
            "kept": self.kept,
            "said": state_bytes(
                sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()),
                sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if p.requires_grad),
                self.strategy,
                args.world_size,
                self.precision,
            ),
        }


def one(base: str, strategy: str, precision: str, steps: int, out: str) -> None:
    "Train on this rank under one strategy, and write what was measured."
    zero = {"stage3_param_persistence_threshold": 0} if strategy.startswith("zero3") else {}
    args = training_arguments(
        out + ".run",
        steps,
        2,
        1e-6,
        warmup=0,
        precision=precision,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=0.0,
        **strategy_arguments(strategy, precision, **zero),
    )
    model, processor = load_to_train(base, precision=precision, args=args)
    frames = [
        Frames(np.random.default_rng(i).integers(0, 255, (8, 56, 56, 3)).astype(np.uint8), np.arange(8) / 4, 4.0)
        for i in range(2)
    ]
    examples = [
        make_example(
            processor, encode(model, processor, Sample(Clip(f"{i}.mp4", "squat", 2), f, "How many?")), "rep1: 0.0s-1.5s"
        )
        for i, f in enumerate(frames)
    ]
    watch = Watch()
    watch.strategy, watch.precision = strategy, precision
    CountSFTTrainer(model=model, args=args, train_dataset=ReadyExamples(examples), callbacks=[watch]).train()
    if this_rank() == 0:
        Path(out).write_text(json.dumps(watch.result))


def measure(base: str, strategy: str, precision: str, steps: int = 100) -> dict[str, Any]:
    "The same on two ranks of their own."
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/result.json"
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            __file__,
            "--one",
            base,
            strategy,
            precision,
            str(steps),
            out,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if not Path(out).exists():
            raise RuntimeError(f"{strategy}, {precision}: {done.stderr[-3000:]}")
        return json.loads(Path(out).read_text())


def rounded_base(folder: str) -> str:
    "A tiny model whose weights are bfloat16 numbers."
    load_model(make_tiny_checkpoint(folder, hidden=64, layers=2, vision_hidden=32), device="cpu", dtype=torch.bfloat16)[
        0
    ].save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100, help="optimiser steps")
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    if asked.one:
        return one(*asked.one[:3], int(asked.one[3]), asked.one[4])
    with tempfile.TemporaryDirectory() as folder:
        base, rows = rounded_base(folder), []
        for strategy in STRATEGIES:
            for precision in PRECISIONS:
                if (strategy, precision) == ("zero3_offload", "bfloat16"):
                    continue  # refused: see `strategy_arguments`
                r = measure(base, strategy, precision, asked.steps)
                said = r["said"]["weights"] + r["said"]["gradients"] + r["said"]["optimiser"] + r["said"]["cpu"]
                mb = [r["kept"][part] / 1e6 for part in ("weights", "gradients", "optimiser")]
                rows.append(
                    f"| {strategy} | {precision} | {r['moved']:.1%} | {r['distance']:.1e} | {mb[0]:.3f} | "
                    f"{mb[1]:.3f} | {mb[2]:.3f} | {said / 1e6:.3f} (counted: {sum(mb):.3f}) |"
                )
                print(rows[-1], flush=True)
    (Path(__file__).parent / "precision.md").write_text(
        HEAD.format(steps=asked.steps) + "\n".join(rows) + "\n" + TAIL, encoding="utf-8"
    )


TAIL = ""

if __name__ == "__main__":
    main()
