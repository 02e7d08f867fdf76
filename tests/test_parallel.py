"""Training on two ranks: the same losses as in one process, under every strategy; and the two traps, which bite when
the guard is taken away.
"""

import importlib.util
import json
import re
from pathlib import Path

import nbformat
import pytest
import torch

from actrep_nb.evaluate import load_predictions
from actrep_nb.tiny_base import make_tiny_checkpoint
from actrep_nb.parallel import STRATEGIES, rank_share, share, state_bytes, strategy_arguments, through
from actrep_nb.runs import RunFailed, find_notebook, run
from actrep_nb.sft import torn

TINY_BASE = Path(__file__).parents[1] / "data/tiny_base"

PARAMETERS = (
    'strategy: str = "ddp"  # what each rank keeps\nwhole: bool = True  # collect the weights before '
    'sampling\ncheckpoint: str = ""  # to train\nout: str = ""  # run folder\naround: bool = True  # go through the '
    'wrapper\nuneven: bool = False  # one rank writes shorter answers\ngather: str = "whole"  # in the '
    'rollout\nagree: bool = True  # call the head equally often\nchunk: int = 0  # tokens to a call of the '
    'head\nprecision: str = "float32"\nlora: int = 0\nbeta: float = 0.0\nresample: int = 0\nsave: int = 0\noptim: '
    'str = "sgd"\nlr: float = 1e-2\nresume: bool = False\nspoil: int = -1  # rank whose second loss is NaN'
)
PREPARE = """import os, numpy as np, torch
from actrep_nb import grpo, loading, rollout, sft
from actrep_nb.models import Sample, encode, unwrapped
from actrep_nb.parallel import strategy_arguments
from actrep_nb.records import Clip
from actrep_nb.rewards import REWARDS
from actrep_nb.show import glue
from actrep_nb.video import Frames
from contextlib import contextmanager
@contextmanager
def as_they_are(model): yield unwrapped(model)
if not whole: grpo.gathered, rollout.calls_count = as_they_are, lambda model: False
if not agree: sft.calls_count = lambda model: False
if not around: sft.through = lambda model, call: call(unwrapped(model))
REWARDS["vowels"] = lambda completions, clips, **_: [sum(x in "aeiou" for x in t.lower()) / 10 for t in completions]
def prompts(model, processor):
    for i, n in enumerate((8, 12, 8, 6, 10, 8, 12, 6)):
        pixels = np.random.default_rng(i).integers(0, 255, (n, 56, 56, 3)).astype(np.uint8)
        frames = Frames(pixels, np.arange(n) / 4, 4.0)
        clip = Clip(video=f"{i}.mp4", action="squat", count=2 + i)
        yield clip, encode(model, processor, Sample(clip, frames, "How many?"))
small = {"stage3_param_persistence_threshold": 0} if strategy.startswith("zero3") else {}
more = strategy_arguments(strategy, precision, **small)
if save: more |= dict(save_strategy="steps", save_steps=save)
def arguments(name, steps):
    return sft.training_arguments(out + name, steps, 4, lr, optim=optim, precision=precision, **more)
def loaded(args):
    torch.manual_seed(0)
    model, processor = sft.load_to_train(checkpoint, "", lora, precision, args=args)
    if chunk: sft.CHUNK = chunk * model.config.text_config.vocab_size
    return model, processor
if spoil >= 0:
    compute = sft.CountSFTTrainer.compute_loss
    def spoilt(self, *args, **more):
        here = self.state.global_step == 1 and int(os.environ.get("RANK", 0)) == spoil
        return compute(self, *args, **more) + (torch.nan if here else 0)
    sft.CountSFTTrainer.compute_loss = spoilt
def here(p): return getattr(p, "ds_tensor", p.to_local() if hasattr(p, "to_local") else p).numel()
"""
IMITATE = """args = arguments("/sft", 3)
model, processor = loaded(args)
glue("loaded", sum(map(here, model.parameters())))
examples = [loading.make_example(processor, p, "rep1: 0.0s-1.5s" * (1 + k % 3))
            for k, (c, p) in enumerate(prompts(model, processor))]
log = sft.train_sft(model, examples, args, checkpoint=out + "/sft/checkpoint", resume=resume)
glue("loss", [row["loss"] for row in log])
glue("effect", [row.get("video_effect") for row in log])
glue("here", sum(map(here, model.parameters())))
glue("all", sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters()))
from safetensors.torch import load_file
saved = load_file(out + f"/sft/checkpoint/{'adapter_model' if lora else 'model'}.safetensors")
glue("kept", sorted({str(t.dtype) for t in saved.values()}))
kept = [n for n in sorted(saved) if "embed_tokens" in n or "layers.0.self_attn" in n]
glue("saved", {name: saved[name].double().sum().item() for name in kept})
args = model = None"""
GRPO = """args = arguments("/grpo", 2)
model, processor = loaded(args)
examples = [loading.Example(p, clip=c) for c, p in prompts(model, processor)]
log = grpo.train_grpo(model, processor, examples, args, {"vowels": 1.0}, group_size=4,
                      params=rollout.SamplingParams(24 - 8 * uneven * int(os.environ.get("RANK", 0))),
                      checkpoint=out + "/grpo/checkpoint",
                      recipe=grpo.Recipe(grpo.by_token, beta=beta, resample=resample), gather=gather, resume=resume)
glue("rl", [[row["loss"], row["reward"], row["grad_norm"]] for row in log])
glue("written", log[0]["completion_length"])
glue("looked", [row.get("video_effect") for row in log])"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "checkpoint", hidden=32, layers=2, vision_hidden=32)


@pytest.fixture
def train(tiny, tmp_path, monkeypatch):
    "Runs the notebook under a strategy: its metrics."
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, (PREPARE, IMITATE, GRPO)),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "train.ipynb")

    def go(name, ranks=2, timeout=300, **parameters):
        return run(
            tmp_path / "train.ipynb",
            tmp_path / name,
            {"checkpoint": str(tiny)} | parameters,
            ranks=ranks,
            quiet=True,
            timeout=timeout,
        ).metrics

    return go


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    "One process, for comparison."
    folder = tmp_path_factory.mktemp("alone")
    cells = [
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        *map(nbformat.v4.new_code_cell, (PREPARE, IMITATE, GRPO)),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "train.ipynb")
    return run(folder / "train.ipynb", folder / "run", {"checkpoint": str(tiny)}, ranks=1, quiet=True).metrics


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_ranks_learn_what_one_process_learns(train, alone, strategy):
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    got = train(strategy, strategy=strategy)
    assert (
        got["loss"] == pytest.approx(alone["loss"], abs=2e-4)
        and len(alone["saved"]) > 4
        and got["saved"] == pytest.approx(alone["saved"], abs=1e-3)
    )
    assert got["effect"][0] > 1e-3 and got["effect"][1:] == [None, None], (
        "measured once, in every strategy's own wrapper"
    )
    assert (
        got["looked"][0] == pytest.approx(alone["looked"][0], rel=1e-3)
        and got["looked"][0] > 1e-3
        and got["looked"][1:] == [None]
    ), "rank 0 asks about the same answer as one process"
    if strategy.startswith("zero3") or strategy == "fsdp2":
        assert got["here"] <= 0.51 * got["all"] and got["loaded"] <= 0.51 * got["all"], "the weights are not shared out"
    assert torch.tensor(got["rl"]).allclose(torch.tensor(alone["rl"]), atol=2e-4) and all(
        norm > 1e-3 for _, _, norm in got["rl"]
    )


def test_past_the_wrapper_each_rank_learns_alone(train, alone):
    "The trap: without `through`, DDP never averages, and the second loss is that of another model."
    assert abs(train("past", around=False)["loss"][-1] - alone["loss"][-1]) > 2e-4


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_sampling_from_shared_out_weights_hangs(train, strategy):
    """The trap: ranks that write answers of different lengths ask for the weights a different number of times.

    Bounded by the cell's time here.
    """
    if strategy == "zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    with pytest.raises(RunFailed, match="CellTimeoutError|RuntimeError|DeadKernelError"):
        train("hangs", strategy=strategy, whole=False, uneven=True, timeout=45)


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_weights_gathered_whole_or_a_layer_at_a_time_write_the_same(train, strategy):
    """Uneven answers, and groups that one rank draws again and the other does not; the same losses as with weights that
    nobody shares.
    """
    if strategy == "zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    given = {"uneven": True, "resample": 1}
    own = train("own", strategy="ddp", **given)
    assert own["written"] > 4
    for gather in ("whole", "layers"):
        got = train(gather, strategy=strategy, gather=gather, **given)
        assert got["written"] == own["written"] and torch.tensor(got["rl"]).allclose(torch.tensor(own["rl"]), atol=2e-4)


@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_a_head_called_in_chunks_is_called_equally_often(train, alone, strategy):
    """The trap: answers of different lengths make different numbers of chunks.

    Under FSDP2 the head is collected with the model and not by the call, so it ends in any case.
    """
    if strategy == "zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    got = train("agreed", strategy=strategy, chunk=6)
    assert got["loss"] == pytest.approx(alone["loss"], abs=2e-4) and torch.tensor(got["rl"]).allclose(
        torch.tensor(alone["rl"]), atol=2e-4
    )
    if strategy == "zero3":
        with pytest.raises(RunFailed, match="CellTimeoutError|RuntimeError|DeadKernelError"):
            train("hangs", strategy=strategy, chunk=6, agree=False, timeout=45)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero3", "fsdp2"])
def test_a_reference_model_is_shared_out_too(train, strategy):
    if strategy == "zero3":
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    own, got = (train(name, strategy=name, beta=0.1) for name in ("ddp", strategy))
    assert torch.tensor(got["rl"]).allclose(torch.tensor(own["rl"]), atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy, kept", {"ddp": "float32", "zero2": "bfloat16", "zero3": "bfloat16", "fsdp2": "float32"}.items()
)
def test_mixed_precision_and_adapters(train, alone, strategy, kept):
    """Near float32 and not equal to it; saved in what the strategy keeps; adapters float32, and the same under each
    strategy.
    """
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    got = train("mixed", strategy=strategy, precision="mixed")
    assert (
        got["loss"][0] == pytest.approx(alone["loss"][0], rel=5e-3)
        and got["loss"][0] != pytest.approx(alone["loss"][0], rel=1e-6)
        and got["kept"] == [f"torch.{kept}"]
    )
    got, own = (train(f"lora-{name}", strategy=name, precision="mixed", lora=4) for name in (strategy, "ddp"))
    assert got["kept"] == ["torch.float32"] and got["loss"] == pytest.approx(own["loss"], rel=2e-3)


@pytest.mark.slow
def test_a_run_under_fsdp2_goes_on_from_its_checkpoint(train):
    "With AdamW, whose state is shared out too; torch 2.13 cannot read back an optimiser without state."
    whole = train("run", strategy="fsdp2", save=2, optim="adamw_torch", lr=1e-3)
    again = train("run", strategy="fsdp2", save=2, optim="adamw_torch", lr=1e-3, resume=True)
    assert (
        len(whole["loss"]) == len(again["loss"]) == 3
        and again["loss"] == pytest.approx(whole["loss"], rel=1e-5)
        and again["saved"] == pytest.approx(whole["saved"], abs=1e-4)
    )  # a step of float32 at a loss of 6 is 5e-7


@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_all_ranks_stop_where_one_meets_a_number_that_is_none(train, tmp_path, strategy):
    "Together and with the same words, and none waits for another; the checkpoint before is whole."
    with pytest.raises(
        RunFailed,
        match=r"NotFinite: step 2: the loss is nan \(clips: example \d, example \d;"
        r".*the last whole checkpoint is \S*sft/checkpoint-1\.",
    ):
        train("spoiled", strategy=strategy, spoil=1, save=1, optim="adamw_torch", timeout=120)
    said = [
        re.search(r"\"evalue\": \"(step 2: [^\"]*)", path.read_text())
        for path in sorted((tmp_path / "spoiled").glob("notebook*.ipynb"))
    ]
    assert len(said) == 2 and all(said) and said[0][1] == said[1][1]
    assert sorted(p.name for p in (tmp_path / "spoiled/sft").iterdir()) == ["checkpoint-1", "log.jsonl"] and not torn(
        tmp_path / "spoiled/sft/checkpoint-1"
    )


def test_strategies_are_named_and_their_bytes_add_up():
    for bad, words in ((("zero4",), "zero2, zero3"), (("ddp",), "takes no DeepSpeed settings")):
        with pytest.raises(ValueError, match=words):
            strategy_arguments(*bad, **({"x": 1} if bad == ("ddp",) else {}))
    assert (
        "x" not in str(STRATEGIES["zero2"]["deepspeed"]["zero_optimization"])
        and strategy_arguments("zero2", x=1)["deepspeed"]["zero_optimization"]["x"] == 1
    )
    whole = state_bytes(100, 100, "ddp", 8)
    assert (
        sum(whole.values()) == 1600
        and sum(state_bytes(100, 100, "zero3", 8).values()) == 200
        and sum(state_bytes(100, 100, "zero3_offload", 8).values()) == 200
    )
    assert state_bytes(100, 10, "zero2", 2) == {"weights": 200, "gradients": 10, "optimiser": 60, "cpu": 0}
    with pytest.raises(ValueError, match="take precision='mixed'"):
        strategy_arguments("zero3_offload", "bfloat16")


def load_benchmark(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / f"benchmarks/{name}.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


@pytest.mark.slow
def test_a_model_is_never_whole_on_a_rank_while_it_is_loaded(tmp_path):
    """1.2 GB in float32, read from a checkpoint in bfloat16; without sharing, which is what the check is able to see, a
    rank needs all of it.
    """
    benchmark = load_benchmark("parallel")
    base = benchmark.large_base(str(tmp_path / "base"))
    for strategy, allowed in (("zero3", 0.6), ("fsdp2", 0.6), ("ddp", None)):
        found = benchmark.loaded(base, strategy)
        assert found["whole"] > 1100 and len(found["peaks"]) == 2
        for peak in found["peaks"]:
            assert (
                peak["RssAnon"] <= allowed * found["whole"] if allowed else peak["RssAnon"] > 0.95 * found["whole"]
            ), (strategy, found)


@pytest.mark.parametrize(
    "strategy, precision",
    [("ddp", "mixed"), ("fsdp2", "mixed"), ("zero2", "mixed"), ("zero3", "mixed"), ("ddp", "bfloat16")],
)
def test_weights_move_in_mixed_precision_and_each_rank_keeps_what_is_said(tmp_path, monkeypatch, strategy, precision):
    "Ten steps at lr 1e-6, from weights that bfloat16 can hold; bytes counted on rank 0."
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is there on Linux only")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    benchmark = load_benchmark("precision")
    found = benchmark.measure(benchmark.rounded_base(str(tmp_path / "base")), strategy, precision, steps=10)
    assert (
        found["moved"] < 0.05
        if precision == "bfloat16"
        else found["moved"] > 0.999 and found["distance"] == pytest.approx(1e-5, rel=0.05)
    )
    assert found["kept"] == {part: found["said"][part] for part in ("weights", "gradients", "optimiser")}


def test_a_batch_is_shared_by_all_ranks():
    assert [rank_share(16, 2, n) for n in (1, 2, 8)] == [8, 4, 1]
    for ranks, accumulation in ((3, 1), (16, 2)):
        with pytest.raises(ValueError, match="multiple of"):
            rank_share(16, accumulation, ranks)


def test_through_puts_forward_back():
    from torch import nn

    model = nn.Linear(2, 2)

    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.calls = model, 0

        def forward(self):
            self.calls += 1
            return self.module()

    wrapper = Wrapper()
    assert through(wrapper, lambda inner: inner.weight.sum()).item() == model.weight.sum().item() and wrapper.calls == 1
    with pytest.raises(ZeroDivisionError):
        through(wrapper, lambda inner: 1 / 0)
    assert "forward" not in vars(model) and model(torch.ones(2)).shape == (2,)


def test_parameters_are_counted_without_loading(tiny):
    from actrep_nb.models import freeze, load_model, trainable
    from actrep_nb.parallel import parameter_counts

    model = freeze(load_model(tiny, device="cpu")[0], "vision")
    assert parameter_counts(str(tiny), "vision") == trainable(model)[::-1]


@pytest.mark.parametrize(
    "name, count",
    {  # the totals these checkpoints are known by; nothing is looked up here
        "Qwen2-VL-2B": 2_208_985_600,
        "Qwen2-VL-7B": 8_291_375_616,
        "Qwen2.5-VL-3B": 3_754_622_976,
        "Qwen2.5-VL-7B": 8_292_166_656,
        "Qwen2.5-VL-32B": 33_452_718_336,
        "Qwen2.5-VL-72B": 73_410_777_344,
        "Qwen3-VL-2B": 2_127_532_032,
        "Qwen3-VL-4B": 4_437_815_808,
        "Qwen3-VL-8B": 8_767_123_696,
    }.items(),
)
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
    for name in ("RANK", "WORLD_SIZE", "ACTREP_RANKS"):
        monkeypatch.delenv(name, raising=False)
    cells = [
        "from actrep_nb.parallel import shared_out, this_rank\nfrom actrep_nb.show import glue",
        "glue('made', [shared_out(range(n), lambda mine: [(i, this_rank()) for i in mine], size=2) for n in (0, 1, "
        "2, 5)])",
        "shared_out(range(4), lambda mine: mine[this_rank():])",
    ]
    nbformat.write(
        nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells))), tmp_path / "share.ipynb"
    )
    with pytest.raises(RunFailed, match=r"\[rank 1 of 2\] rank 1 made 1 things of 2") as failed:
        run(tmp_path / "share.ipynb", tmp_path / "run", ranks=2, quiet=True)
    owner = [0, 0, 1, 1, 0]
    assert failed.value.result.metrics["made"] == [[[i, owner[i]] for i in range(n)] for n in (0, 1, 2, 5)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    "Seven clips to judge, the third of them broken, and one without a repetition."
    from actrep_nb.formats import load_clips
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
    for name in ("RANK", "WORLD_SIZE", "ACTREP_RANKS"):
        monkeypatch.delenv(name, raising=False)


def test_two_ranks_judge_as_one_process(drawn, tmp_path, one_thread):
    given = {
        "clips": str(drawn / "test.csv"),
        "none": str(drawn / "none.csv"),
        "train": "",
        "base": str(TINY_BASE),
        "sft": "",
        "grpo": "",
        "cache": "",
        "batch": 2,
        "max_new_tokens": 12,
    }
    for ranks in (1, 2):
        run("06_evaluate", tmp_path / str(ranks), given, ranks=ranks, quiet=True)
    one, two = (load_predictions(tmp_path / str(ranks)) for ranks in (1, 2))
    assert {name: [(p.id, p.text, p.problems) for p in ps] for name, ps in one.items()} == {
        name: [(p.id, p.text, p.problems) for p in ps] for name, ps in two.items()
    }
    assert (
        len(one["base"]) == 7
        and "VideoError" in str(one["base"][2].problems)
        and len({p.text for p in one["base"]}) > 2
    )
    for name in ("results.json", "none.json"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    other = nbformat.read(tmp_path / "2/notebook.rank1.ipynb", 4)
    assert not [o for c in other.cells for o in c.get("outputs", []) if "answering" in str(o)], (
        "the other rank is silent"
    )


def test_a_selection_killed_on_two_ranks_goes_on_with_one(drawn, tmp_path, one_thread):
    "Left alone on two ranks; or killed there, and continued by one process: the same answers, and none drawn twice."
    given = {
        "model": str(TINY_BASE),
        "clips": str(drawn / "test.csv"),
        "cache": "",
        "group_size": 2,
        "max_new_tokens": 8,
        "share": 1.0,
        "rule": "random",
    }
    alone = run("04_select", tmp_path / "alone", given, ranks=2, quiet=True)
    broken = nbformat.read(find_notebook("04_select"), 4)
    cell = next(c for c in broken.cells if "def ask" in c.source)
    cell.source = "import os, signal\n" + cell.source.replace(
        "def complete(clip, clip_seed):",
        "def complete(clip, clip_seed):\n        if this_rank() and "
        "len(rank_completions(answers).read_text().splitlines()) > 2: os.kill(os.getpid(), signal.SIGKILL)",
    )
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(RunFailed, match="rank 1 of 2"):
        run(tmp_path / "broken.ipynb", tmp_path / "killed", given, ranks=2, quiet=True)
    left = {p.name: p.read_text().splitlines() for p in (tmp_path / "killed").glob("answers*")}
    assert set(left) == {"answers.rank0.jsonl", "answers.rank1.jsonl"} and len(left["answers.rank1.jsonl"]) == 3
    went_on = run("04_select", tmp_path / "killed", given, ranks=1, quiet=True)
    assert alone.metrics == went_on.metrics and alone.metrics["unreadable"] == 1
    lines = (tmp_path / "killed/answers.jsonl").read_text().splitlines()
    assert (
        len(lines) == 7
        and set(left["answers.rank1.jsonl"]) <= set(lines)
        and set(lines) == set((tmp_path / "alone/answers.jsonl").read_text().splitlines())
    )
    assert not list(tmp_path.glob("*/answers.rank*"))
    for name in ("fates.csv", "selected.jsonl"):
        assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
