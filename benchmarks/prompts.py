"""Think against no-think, and one prompt against another, on the same clips.

The tiny base learns to count from the same reasoning once for each prompt, and is judged on the same held-out clips.

    python benchmarks/prompts.py --data runs/prompts/data --out runs/prompts

wants test.csv, videos/ and cot/ in the data folder (experiments 00_data and 02_cot). Models that are there already
are not trained again, nor asked again."""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from actrep_nb.answers import is_well_formed, parse_answer
from actrep_nb.evaluate import LocalCounter, compare, evaluate, judge, load_predictions
from actrep_nb.prompts import parse_prompt
from actrep_nb.formats import load_clips
from actrep_nb.records import Prediction
from actrep_nb.rollout import SamplingParams
from actrep_nb.runs import run

PROMPTS = {
    "think": "count",
    "no-think": "count-no-think",
    "answer-think-answer": "count-answer-think-answer",
    "actrep-r1": "actrep-r1",
    "action told": "count action",
}
FIRST = "answer-think-answer, its first answer"


def train(name: str, args: argparse.Namespace) -> Path:
    "The model of one prompt."
    out = args.out / f"{name.replace(' ', '_')}-{args.seed}"
    if not (out / "checkpoint" / "config.json").exists():
        run(
            "03_sft",
            out / "run",
            {
                "model": args.base,
                "data": str(args.data / "cot"),
                "out": str(out),
                "cache": str(args.out / "frames"),
                "steps": args.steps,
                "lr": args.lr,
                "prompt": PROMPTS[name],
                "seed": args.seed,
                "workers": 1,
            },
            quiet=True,
        )
    return out / "checkpoint"


def first_answer(prediction: Prediction) -> Prediction:
    "What stands before the reasoning, as if the model had stopped there."
    said = re.match(r"\s*<answer>[^<]*</answer>", prediction.text or "")
    return replace(prediction, count=parse_answer(said[0]).count if said else None)


def table(said: dict[str, Sequence[Prediction]], models: dict[str, dict], style: dict[str, str]) -> str:
    """A line for each prompt: metrics with 95 % intervals, paired differences to the first, and what its completions
    are like.
    """

    def cell(m: dict, sign: str = "") -> str:
        return f"{m['value']:{sign}.3f} [{m['lo']:{sign}.3f}, {m['hi']:{sign}.3f}]" + (
            " *" if sign and (m["lo"] > 0 or m["hi"] < 0) else ""
        )

    first, *_ = said
    lines = [
        f"| prompt | OBO | exact | MAE | OBO − {first} | exact − {first} | MAE − {first} | well-formed | words |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, ps in said.items():
        against = compare(ps, said[first])
        differences = [cell(against[m], "+") if name != first else "" for m in ("obo", "exact", "mae")]
        formed = (
            f"{sum(is_well_formed(p.text or '', style=style[name]) for p in ps) / len(ps):.3f}" if name in style else ""
        )
        words = f"{sum(len((p.text or '').split()) for p in ps) / len(ps):.0f}" if name in style else "1"
        lines.append(
            f"| {name} | {' | '.join(cell(models[name][m]) for m in ('obo', 'exact', 'mae'))} | "
            f"{' | '.join(differences)} | {formed} | {words} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with test.csv, videos/ and cot/")
    parser.add_argument("--out", type=Path, required=True, help="folder of all models")
    parser.add_argument("--base", default="data/tiny_base", help="where all of them start")
    parser.add_argument("--steps", type=int, default=700, help="of supervised fine-tuning, 8 clips each")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of the order of clips")
    parser.add_argument(
        "--prompts", default=",".join(PROMPTS), help="some of them, with commas; the others are compared with the first"
    )
    args = parser.parse_args()
    names = args.prompts.split(",")
    found = {name: train(name, args) for name in names}
    clips = load_clips(args.data / "test.csv", videos=args.data / "videos")
    judged = args.out / f"judged-{args.seed}"
    said = load_predictions(judged) if (judged / "predictions.jsonl").exists() else {}
    for name in names:
        if name not in said:
            said |= evaluate(
                {name: LocalCounter.from_pretrained(found[name], params=SamplingParams(160))}, clips
            ).predictions
            judge(said, clips).save(judged)
    said = {name: said[name] for name in names}
    if "answer-think-answer" in said:
        said[FIRST] = [first_answer(p) for p in said["answer-think-answer"]]
    text = table(said, judge(said, clips).models, {name: parse_prompt(PROMPTS[name]).style for name in names})
    (args.out / f"prompts-{args.seed}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
