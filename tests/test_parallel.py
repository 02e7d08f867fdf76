"Training on two ranks: the same losses as in one process, under every strategy; and the two traps, which bite when the guard is taken away."
import json
from pathlib import Path

import nbformat
import pytest
import torch

from actrep_nb.evaluate import load_predictions
from actrep_nb.models import make_tiny_checkpoint
from actrep_nb.parallel import STRATEGIES, rank_share, share, state_bytes, strategy_arguments, through
from actrep_nb.runs import RunFailed, find_notebook, run

TINY_BASE = Path(__file__).parents[1] / "data/tiny_base"

PARAMETERS = 'strategy: str = "ddp"  # what each rank keeps\nwhole: bool = True  # collect the weights before sampling\ncheckpoint: str = ""  # to train\nout: str = ""  # run folder\naround: bool = True  # go through the wrapper\nuneven: bool = False  # one rank writes shorter answers'
PREPARE = """import os, numpy as np, torch
from actrep_nb import sft, grpo
from actrep_nb.models import Sample, encode, load_model, unwrapped
from actrep_nb.parallel import strategy_arguments
from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS
from actrep_nb.show import glue
from actrep_nb.video import Frames
from contextlib import contextmanager
@contextmanager
def as_they_are(model): yield unwrapped(model)
if not whole: grpo.gathered = as_they_are
if not around: sft.through = lambda model, call: call(unwrapped(model))
REWARDS["vowels"] = lambda completions, clips, **_: [sum(x in "aeiou" for x in t.lower()) / 10 for t in completions]
def prompts(model, processor):
    for i, n in enumerate((8, 12, 8, 6, 10, 8, 12, 6)):
        frames = Frames(np.random.default_rng(i).integers(0, 255, (n, 56, 56, 3)).astype(np.uint8), np.arange(n) / 4)
        clip = Clip(video=f"{i}.mp4", action="squat", count=2 + i)
        yield clip, encode(model, processor, Sample(clip, frames, "How many?"))
more = strategy_arguments(strategy, **({"stage3_param_persistence_threshold": 0} if strategy.startswith("zero3") else {}))
def arguments(name, steps): return sft.training_arguments(out + name, steps, 4, 1e-2, optim="sgd", **more)
"""
IMITATE = """model, processor = load_model(checkpoint, device="cpu")
examples = [sft.make_example(processor, p, "rep1: 0.0s-1.5s" * (1 + k % 3)) for k, (c, p) in enumerate(prompts(model, processor))]
log = sft.train_sft(model, examples, arguments("/sft", 3), checkpoint=out + "/sft/checkpoint")
glue("loss", [row["loss"] for row in log])
glue("effect", [row.get("video_effect") for row in log])
glue("here", sum(getattr(p, "ds_tensor", p).numel() for p in model.parameters()))
glue("all", sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()))
from safetensors.torch import load_file
saved = load_file(out + "/sft/checkpoint/model.safetensors")
glue("saved", {name: saved[name].double().sum().item() for name in [n for n in sorted(saved) if "embed_tokens" in n or "layers.0.self_attn" in n]})"""
PRACTISE = """model, processor = load_model(checkpoint, device="cpu")
log = grpo.train_grpo(model, processor, list(prompts(model, processor)), arguments("/grpo", 2), {"vowels": 1.0}, group_size=4, max_new_tokens=24 - 8 * uneven * int(os.environ.get("RANK", 0)), checkpoint=out + "/grpo/checkpoint",
                      recipe=grpo.Recipe(grpo.by_token))
glue("practice", [[row["loss"], row["reward"], row["grad_norm"]] for row in log])
glue("written", log[0]["completion_length"])
glue("looked", [row.get("video_effect") for row in log])"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32)


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    "Runs the notebook under a strategy: its metrics."
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, (PREPARE, IMITATE, PRACTISE))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "train.ipynb")

    def go(name, ranks=2, timeout=300, **parameters):
        return run(tmp_path / "train.ipynb", tmp_path / name, {"checkpoint": str(tiny)} | parameters, ranks=ranks, quiet=True, timeout=timeout).metrics
    return go


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    "One process, for comparison."
    folder = tmp_path_factory.mktemp("alone")
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, (PREPARE, IMITATE, PRACTISE))]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "train.ipynb")
    return run(folder / "train.ipynb", folder / "run", {"checkpoint": str(tiny)}, ranks=1, quiet=True).metrics


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_learn_what_one_process_learns(train, alone, strategy):
    if strategy.startswith("zero"): pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    got = train(strategy, strategy=strategy)
    assert got["loss"] == pytest.approx(alone["loss"], abs=2e-4) and len(alone["saved"]) > 4 and got["saved"] == pytest.approx(alone["saved"], abs=1e-3)
    assert got["effect"][0] > 1e-3 and got["effect"][1:] == [None, None], "measured once, in every strategy's own wrapper"
    assert got["looked"][0] == pytest.approx(alone["looked"][0], rel=1e-3) and got["looked"][0] > 1e-3 and got["looked"][1:] == [None], "rank 0 asks about the same answer as one process"
    if strategy.startswith("zero3"): assert got["here"] <= 0.51 * got["all"], "the weights are not shared out"
    assert torch.tensor(got["practice"]).allclose(torch.tensor(alone["practice"]), atol=2e-4) and all(norm > 1e-3 for _, _, norm in got["practice"])


def test_past_the_wrapper_each_rank_learns_alone(train, alone):
    "The trap: without `through`, DDP never averages, and the second loss is that of another model."
    assert abs(train("past", around=False)["loss"][-1] - alone["loss"][-1]) > 2e-4


def test_sampling_from_shared_out_weights_hangs(train):
    "The trap: ranks that write answers of different lengths ask for the weights a different number of times. Bounded by the cell's time here; with `gathered` the same run ends, see above."
    pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    with pytest.raises(RunFailed, match="CellTimeoutError|RuntimeError"): train("hangs", strategy="zero3", whole=False, uneven=True, timeout=45)
    assert train("ends", strategy="zero3", uneven=True)["written"] > 4


def test_strategies_are_named_and_their_bytes_add_up():
    for bad, words in ((("zero4",), "zero2, zero3"), (("ddp",), "takes no DeepSpeed settings")):
        with pytest.raises(ValueError, match=words): strategy_arguments(*bad, **({"x": 1} if bad == ("ddp",) else {}))
    assert "x" not in str(STRATEGIES["zero2"]["deepspeed"]["zero_optimization"]) and strategy_arguments("zero2", x=1)["deepspeed"]["zero_optimization"]["x"] == 1
    whole = state_bytes(100, 100, "ddp", 8)
    assert sum(whole.values()) == 1600 and sum(state_bytes(100, 100, "zero3", 8).values()) == 200 and sum(state_bytes(100, 100, "zero3_offload", 8).values()) == 200
    assert state_bytes(100, 10, "zero2", 2) == {"weights": 200, "gradients": 10, "optimiser": 60, "cpu": 0}
    assert [rank_share(16, 2, n) for n in (1, 2, 8)] == [8, 4, 1]
    for ranks, accumulation in ((3, 1), (16, 2)):
        with pytest.raises(ValueError, match="multiple of"): rank_share(16, accumulation, ranks)


def test_through_puts_forward_back():
    from torch import nn

    model = nn.Linear(2, 2)
    class Wrapper(nn.Module):
        def __init__(self): super().__init__(); self.module, self.calls = model, 0
        def forward(self): self.calls += 1; return self.module()
    wrapper = Wrapper()
    assert through(wrapper, lambda inner: inner.weight.sum()).item() == model.weight.sum().item() and wrapper.calls == 1
    with pytest.raises(ZeroDivisionError): through(wrapper, lambda inner: 1 / 0)
    assert "forward" not in vars(model) and model(torch.ones(2)).shape == (2,)


def test_parameters_are_counted_without_loading(tiny):
    from actrep_nb.models import freeze, load_model, trainable
    from actrep_nb.parallel import parameter_counts

    model = freeze(load_model(tiny, device="cpu")[0], "vision")
    assert parameter_counts(str(tiny), "vision") == trainable(model)[::-1]


@pytest.mark.parametrize("name, count", {  # the totals these checkpoints are known by; nothing is looked up here
    "Qwen2-VL-2B": 2_208_985_600, "Qwen2-VL-7B": 8_291_375_616, "Qwen2.5-VL-3B": 3_754_622_976, "Qwen2.5-VL-7B": 8_292_166_656, "Qwen2.5-VL-32B": 33_452_718_336,
    "Qwen2.5-VL-72B": 73_410_777_344, "Qwen3-VL-2B": 2_127_532_032, "Qwen3-VL-4B": 4_437_815_808, "Qwen3-VL-8B": 8_767_123_696}.items())
def test_published_checkpoints_have_their_size(name, count):
    from actrep_nb.parallel import parameter_counts

    assert parameter_counts(f"Qwen/{name}-Instruct")[0] == count


def test_deepspeed_reads_a_saved_strategy(tmp_path):
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    from actrep_nb.parallel import save_strategy

    save_strategy("zero3_offload", tmp_path / "zero3.json")
    zero = DeepSpeedZeroConfig(**json.loads((tmp_path / "zero3.json").read_text())["zero_optimization"])
    assert zero.stage == 3 and zero.offload_param.device == zero.offload_optimizer.device == "cpu"


# --- work that is shared out


@pytest.mark.parametrize(("n", "size", "ranks"), [(0, 1, 2), (1, 1, 3), (5, 2, 2), (5, 8, 3), (12, 3, 4), (7, 1, 8)])
def test_every_item_goes_to_one_rank_and_batches_stay_whole(n, size, ranks):
    shares = [share(range(n), size, r, ranks) for r in range(ranks)]
    assert sorted(i for mine in shares for i in mine) == list(range(n))
    batches = {tuple(range(k, min(k + size, n))) for k in range(0, n, size)}
    assert {tuple(mine[k : k + size]) for mine in shares for k in range(0, len(mine), size)} == batches


def test_two_ranks_share_out_and_bring_together(tmp_path, monkeypatch):
    "Uneven shares, a rank without any, and a call that loses an item."
    for name in ("RANK", "WORLD_SIZE", "ACTREP_RANKS"): monkeypatch.delenv(name, raising=False)
    cells = ["from actrep_nb.parallel import shared_out, this_rank\nfrom actrep_nb.show import glue",
             "glue('made', [shared_out(range(n), lambda mine: [(i, this_rank()) for i in mine], size=2) for n in (0, 1, 2, 5)])",
             "shared_out(range(4), lambda mine: mine[this_rank():])"]
    nbformat.write(nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells))), tmp_path / "share.ipynb")
    with pytest.raises(RunFailed, match=r"\[rank 1 of 2\] rank 1 made 1 things of 2") as failed: run(tmp_path / "share.ipynb", tmp_path / "run", ranks=2, quiet=True)
    owner = [0, 0, 1, 1, 0]
    assert failed.value.result.metrics["made"] == [[[i, owner[i]] for i in range(n)] for n in (0, 1, 2, 5)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "Seven clips to judge, the third of them broken, and one without a repetition."
    from actrep_nb.records import load_clips
    from actrep_nb.synth import make_dataset

    folder = tmp_path_factory.mktemp("drawn")
    make_dataset(folder, 7, seed=0, name="test", workers=1)
    make_dataset(folder, 1, seed=1, name="none", counts="none", workers=1)
    broken = load_clips(folder / "test.csv", videos=folder / "videos")[2]
    open(broken.video, "wb").write(b"no video")
    return folder


@pytest.fixture
def one_thread(monkeypatch):
    "Every process computes alike, however many there are."
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("RANK", "WORLD_SIZE", "ACTREP_RANKS"): monkeypatch.delenv(name, raising=False)


def test_two_ranks_judge_as_one_process(drawn, tmp_path, one_thread):
    given = {"clips": str(drawn / "test.csv"), "none": str(drawn / "none.csv"), "train": "", "base": str(TINY_BASE), "sft": "", "grpo": "", "cache": "", "batch": 2, "max_new_tokens": 12}
    for ranks in (1, 2): run("06_evaluate", tmp_path / str(ranks), given, ranks=ranks, quiet=True)
    one, two = (load_predictions(tmp_path / str(ranks)) for ranks in (1, 2))
    assert {name: [(p.id, p.text, p.problems) for p in ps] for name, ps in one.items()} == {name: [(p.id, p.text, p.problems) for p in ps] for name, ps in two.items()}
    assert len(one["base"]) == 7 and "VideoError" in str(one["base"][2].problems) and len({p.text for p in one["base"]}) > 2
    for name in ("results.json", "none.json"): assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    other = nbformat.read(tmp_path / "2/notebook.rank1.ipynb", 4)
    assert not [o for c in other.cells for o in c.get("outputs", []) if "answering" in str(o)], "the other rank is silent"


def test_a_selection_killed_on_two_ranks_goes_on_with_one(drawn, tmp_path, one_thread):
    "Left alone on two ranks; or killed there, and continued by one process: the same answers, and none drawn twice."
    given = {"model": str(TINY_BASE), "clips": str(drawn / "test.csv"), "cache": "", "group_size": 2, "max_new_tokens": 8, "share": 1.0, "rule": "random"}
    alone = run("04_select", tmp_path / "alone", given, ranks=2, quiet=True)
    broken = nbformat.read(find_notebook("04_select"), 4)
    cell = next(c for c in broken.cells if "def ask" in c.source)
    cell.source = "import os, signal\n" + cell.source.replace("def answer(clip, clip_seed):", "def answer(clip, clip_seed):\n        if this_rank() and len(rank_answers(answers).read_text().splitlines()) > 2: os.kill(os.getpid(), signal.SIGKILL)")
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(RunFailed, match="rank 1 of 2"): run(tmp_path / "broken.ipynb", tmp_path / "killed", given, ranks=2, quiet=True)
    left = {p.name: p.read_text().splitlines() for p in (tmp_path / "killed").glob("answers*")}
    assert set(left) == {"answers.rank0.jsonl", "answers.rank1.jsonl"} and len(left["answers.rank1.jsonl"]) == 3
    went_on = run("04_select", tmp_path / "killed", given, ranks=1, quiet=True)
    assert alone.metrics == went_on.metrics and alone.metrics["unreadable"] == 1
    lines = (tmp_path / "killed/answers.jsonl").read_text().splitlines()
    assert len(lines) == 7 and set(left["answers.rank1.jsonl"]) <= set(lines) and set(lines) == set((tmp_path / "alone/answers.jsonl").read_text().splitlines())
    assert not list(tmp_path.glob("*/answers.rank*"))
    for name in ("fates.csv", "selected.jsonl"): assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
