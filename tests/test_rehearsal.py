"""RepCount-A on eight GPUs, rehearsed: the tutorial's own script on two ranks, with a checkpoint as the hub has them
and drawn clips in the data set's format.
"""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_like import make_hub_checkpoint, needs_vocabulary

from actrep_nb.runs import load_run
from actrep_nb.synth import draw_clip
from actrep_nb.video import write_video

SCRIPT = Path(__file__).parents[1] / "nbs/experiments/repcount.sh"
SPELT = {"squat": "squant", "jumping_jack": "jumpjacks", "pull_up": "pullups"}  # as RepCount-A spells


def write_repcount(folder: Path, split: str, counts: list[int], rates: list[float]) -> None:
    """Drawn clips as the data set has them: `annotation/SPLIT.csv` with frame numbers, films of several rates in
    `video/SPLIT`.
    """
    (folder / "annotation").mkdir(parents=True, exist_ok=True)
    (folder / "video" / split).mkdir(parents=True)
    rows = []
    for k, (count, rate) in enumerate(zip(counts, rates)):
        action = list(SPELT)[k % len(SPELT)]
        drawn = draw_clip(action, count, seed=len(split) * 100 + k, size=64, fps=rate, max_seconds=8)
        write_video(folder / "video" / split / f"stu{k}_{split}.mp4", drawn.pixels, rate)
        frames = [round(t * rate) for cycle in drawn.cycles for t in cycle]
        rows.append(
            {"": k, "type": SPELT[action], "name": f"stu{k}_{split}.mp4", "count": count}
            | {f"L{i}": frame for i, frame in enumerate(frames, 1)}
        )
    with open(folder / "annotation" / f"{split}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["", "type", "name", "count", *(f"L{i}" for i in range(1, 303))])
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.slow
@needs_vocabulary
def test_repcount_from_published_files_to_the_table(tmp_path):
    write_repcount(tmp_path / "LLSP", "train", [1, 2, 3, 1, 2, 4], [8, 25, 29.97, 15, 23.976, 30])
    write_repcount(tmp_path / "LLSP", "test", [2, 3, 1], [25, 30, 10])
    model = make_hub_checkpoint(tmp_path / "Qwen2.5-VL-3B-like", "Qwen2.5-VL-3B-Instruct")
    settings = {
        "DATA": "LLSP",
        "OUT": "out",
        "MODEL": str(model),
        "SIZES": "rehearsal",
        "RANKS": "2",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["sh", str(SCRIPT)], cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=1500
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    steps = {name: load_run(tmp_path / "out" / name) for name in ("cot", "sft", "select", "grpo", "evaluate", "report")}
    assert all(run.ok for run in steps.values())
    sft, grpo = steps["sft"].manifest.parameters, steps["grpo"].manifest.parameters
    assert sft["lr"] == 1e-5 and sft["beta2"] == 0.999 and sft["steps"] == 2, (
        "the recipe's settings, the rehearsal's sizes"
    )
    assert (
        grpo["lr"] == 1e-6
        and grpo["group_size"] == 2
        and steps["cot"].metrics["clips"] == 6
        and steps["cot"].metrics["cots"] == 10
    )
    results = json.loads((tmp_path / "out/evaluate/results.json").read_text())
    assert results["n"] == 3 and {"base", "sft", "grpo"} <= set(results["models"]) and "protocols" in results
    assert (tmp_path / "out/report/report.html").exists() and (tmp_path / "out/audit.html").exists()
    again = subprocess.run(
        ["sh", str(SCRIPT)], cwd=tmp_path, env=os.environ | settings, capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 0 and again.stdout.count("done before") == 6, "what is done is not done again"


if __name__ == "__main__":
    write_repcount(Path(sys.argv[1]), "train", [1, 2, 3, 1, 2, 4], [8, 25, 29.97, 15, 23.976, 30])
    write_repcount(Path(sys.argv[1]), "test", [2, 3, 1], [25, 30, 10])
