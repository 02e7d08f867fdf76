"""Faults and what comes of them, with real processes on the tiny model: `make faults` writes benchmarks/faults.md.

Each scenario plants one fault in a copy of small inputs and looks at what is left: the bytes of an undisturbed run,
or a
refusal that names the file and the cure. Anything else is a FAULT, and the exit status is then 1. Processes are stopped
when a file or a line appears, never after a time. `python tools/faults.py --only 'sft|cache'` runs the scenarios whose
phase or fault matches and prints their rows; `--list` only names them. Full and read-only disks are mounted: that
takes root.
"""

import argparse
import csv
import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

root = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(root / 'tests'), str(root)]
from disks import mount, only_read  # noqa: E402
from faulty import served, upstream  # noqa: E402

from actrep_nb.show import temporary_folder, write_whole  # noqa: E402

BASE = str(root / 'data/tiny_base')
MARK = 'ACTREP_FAULT'  # in the environment of all that a scenario starts: so it is found again
LONG = 900.0  # seconds after which a process is taken for stuck


class Unmet(Exception):
    "What came out is neither what an undisturbed run gives nor a refusal that helps."


@dataclass(frozen=True)
class Scenario:
    phase: str
    fault: str
    play: Callable[[Path], str]  # folder with the inputs → outcome and message, joined by ': '
    seconds: float  # after which it is given up


SCENARIOS: list[Scenario] = []


def fault(phase: str, what: str, seconds: float = LONG) -> Callable:
    "Register a scenario."

    def register(play: Callable[[Path], str]) -> Callable[[Path], str]:
        SCENARIOS.append(Scenario(phase, what, play, seconds))
        return play

    return register


# ---- processes --------------------------------------------------------------------------------------------------


def environment(mark: str) -> dict[str, str]:
    return os.environ | {
        'HF_HUB_OFFLINE': '1',
        'TOKENIZERS_PARALLELISM': 'false',
        'OMP_NUM_THREADS': '1',
        'OMP_WAIT_POLICY': 'PASSIVE',
        'PYTHONPATH': str(root),
        MARK: mark,
        'OPENAI_API_KEY': 'sk-test-nobody',
        'DS_ACCELERATOR': 'cpu',
    }


def begin(place: Path, *argv: object) -> subprocess.Popen:
    "Start an actrep command in a scenario's folder; what it says goes into a file."
    log = tempfile.NamedTemporaryFile('w+', dir=place.parent, prefix='said-', suffix='.log', delete=False)
    process = subprocess.Popen(
        [sys.executable, '-c', 'import sys; from actrep_nb.cli import main; sys.exit(main())', *map(str, argv)],
        cwd=place,
        env=environment(place.parent.name),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    process.log = Path(log.name)
    return process


def ended(process: subprocess.Popen, seconds: float = LONG) -> tuple[int, str]:
    "Exit status of a process, and all that it said."
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Unmet(f'it did not end within {seconds:.0f} s: {tail(process)}') from None
    return status, process.log.read_text(errors='replace')


def tail(process: subprocess.Popen) -> str:
    return ' '.join(process.log.read_text(errors='replace').split())[-400:]


def actrep(place: Path, *argv: object) -> tuple[int, str]:
    return ended(begin(place, *argv))


def good(place: Path, *argv: object) -> str:
    "What a command says that must end well."
    status, said = actrep(place, *argv)
    if status:
        raise Unmet(f'exit status {status}: {said[-500:]}')
    return said


def when(process: subprocess.Popen, there: Callable[[], object]) -> None:
    "Wait until something is there. Unmet if the process ends before."
    begun = time.monotonic()
    while not there():
        if process.poll() is not None:
            raise Unmet(f'it ended before it could be disturbed: {tail(process)}')
        if time.monotonic() - begun > LONG:
            raise Unmet('it never came so far')
        time.sleep(0.02)


def alive(mark: str) -> list[int]:
    "Processes that a scenario started and that still run."
    found = []
    for entry in Path('/proc').glob('[0-9]*'):
        try:
            if (
                f'{MARK}={mark}\0'.encode() in (entry / 'environ').read_bytes()
                and (entry / 'stat').read_text().rsplit(')')[1].split()[0] != 'Z'
            ):
                found.append(int(entry.name))
        except OSError:
            pass
    return [pid for pid in found if pid != os.getpid()]


def nobody_left(place: Path, seconds: float = 30.0) -> None:
    "Unmet if processes outlive what started them."
    begun = time.monotonic()
    while left := alive(place.parent.name):
        if time.monotonic() - begun > seconds:
            raise Unmet(f'{len(left)} processes were left behind')
        time.sleep(0.1)


def stop(place: Path, process: subprocess.Popen, how: signal.Signals) -> None:
    "Kill or terminate one process: those it started must end too."
    os.kill(process.pid, how)
    ended(process, 120)
    nobody_left(place)


# ---- inputs, and what must come out -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    "One phase as a command."

    notebook: str
    parameters: tuple[str, ...]
    results: tuple[str, ...]  # patterns of what must be the same
    under_way: str  # a pattern of what appears in the middle

    def command(self, name: str, *changes: str) -> list[str]:
        "The command that writes into a folder; changes win over the parameters."
        values = dict(p.split('=', 1) for p in (*self.parameters, *changes))
        return ['run', self.notebook, *(word for p in values.items() for word in ('-p', '='.join(p))), '--out', name]


STEPS = {
    'draw': Step(
        '00_data',
        ('train=12', 'rl=8', 'test=6', 'none=2'),
        ('*.csv', '*.jsonl', 'videos/*.mp4'),
        'videos/rl*.mp4',
    ),
    'cot': Step('02_cot', ('clips=draw/train.csv', 'crops=6'), ('train.jsonl', 'cot.jsonl'), 'train.jsonl'),
    'sft': Step(
        '03_sft',
        (f'model={BASE}', 'data=cot', 'cache=', 'steps=6', 'batch=2', 'save_steps=2', 'workers=0', 'lr=1e-4'),
        ('checkpoint/model.safetensors',),
        'checkpoint-4/trainer_state.json',
    ),
    'select': Step(
        '04_select',
        (
            'model=sft/checkpoint',
            'clips=draw/rl.jsonl',
            'cache=',
            'group_size=2',
            'max_new_tokens=16',
            'rule=random',
        ),
        ('selected.jsonl', 'fates.csv', 'answers.jsonl'),
        'answers.jsonl',
    ),
    'grpo': Step(
        '05_grpo',
        (
            'model=sft/checkpoint',
            'clips=draw/rl.jsonl',
            'cache=',
            'samples=0',
            'steps=4',
            'prompts=2',
            'group_size=2',
            'max_new_tokens=16',
            'save_steps=2',
            'workers=0',
        ),
        ('checkpoint/model.safetensors',),
        'checkpoint-2/trainer_state.json',
    ),
    'evaluate': Step(
        '06_evaluate',
        (
            'clips=draw/test.csv',
            'none=draw/none.csv',
            'train=draw/train.csv',
            f'base={BASE}',
            'sft=sft/checkpoint',
            'grpo=grpo/checkpoint',
            'cache=',
            'max_new_tokens=16',
            'batch=2',
        ),
        ('results.json', 'predictions.jsonl', 'none.json'),
        'unfinished/*.jsonl',
    ),
    'report': Step(
        '07_report',
        (
            'rl=draw/rl.jsonl',
            'data=draw',
            'cot=cot',
            'sft=sft',
            'grpo=grpo',
            'evaluation=evaluate',
            'clips=draw/test.csv',
        ),
        ('metrics.json',),
        'notebook.ipynb',
    ),
}


INPUTS: Path | None = None  # where undisturbed steps are kept from one command to the next


@functools.cache
def undisturbed() -> Path:
    "A folder in which every step was done once."
    place = (INPUTS or temporary_folder()) / 'place'
    place.mkdir(parents=True, exist_ok=True)
    for name, step in STEPS.items():
        manifest = place / name / 'manifest.json'
        if manifest.exists() and json.loads(manifest.read_text())['status'] == 'done':
            continue
        print(f'  undisturbed: {name}', file=sys.stderr, flush=True)
        good(place, *step.command(name))
    return place


def copied(place: Path, *names: str) -> Path:
    "Put what steps left into a scenario's folder, dates of files included."
    for name in names:
        shutil.copytree(undisturbed() / name, place / name)
    return place


def before(step: str) -> list[str]:
    return list(STEPS)[: list(STEPS).index(step)]


def content(path: Path) -> bytes:
    "What of a file is a result: all but how long an answer took."
    if path.name != 'predictions.jsonl':
        return path.read_bytes()
    return '\n'.join(
        json.dumps({k: v for k, v in json.loads(line).items() if k != 'seconds'})
        for line in path.read_text().splitlines()
    ).encode()


def results(folder: Path, step: str) -> dict[str, str]:
    files = sorted({p for pattern in STEPS[step].results for p in folder.glob(pattern)})
    return {str(p.relative_to(folder)): hashlib.sha256(content(p)).hexdigest()[:12] for p in files}


def exactly(folder: Path, step: str) -> str:
    "The outcome, if all results of a step are those of the undisturbed run."
    wanted, found = results(undisturbed() / step, step), results(folder, step)
    apart = [name for name in {*wanted, *found} if wanted.get(name) != found.get(name)]
    if apart or not wanted:
        raise Unmet(f'not the same as undisturbed: {", ".join(sorted(apart)[:4])}')
    return f'survived exactly: {len(wanted)} files are byte for byte those of an undisturbed run'


def refused(done: tuple[int, str], *words: str) -> str:
    "The outcome, if a command failed and one line of what it said holds all of these patterns."
    status, said = done
    if not status:
        raise Unmet(f'it ended well, and should have been refused: {said[-300:]}')
    if status < 0:
        raise Unmet(f'it died of signal {-status}')
    text = re.sub(r'\x1b\[[0-9;]*m', '', said)
    lines = [line for line in text.splitlines() if all(re.search(word, line) for word in words)]
    if not lines:
        raise Unmet(f'no line says {" and ".join(words)}: {text[-600:]}')
    return f'refused: {" ".join(lines[0].split())[:300]}'


def same_again(place: Path, name: str, done: Callable[[], object] = lambda: None) -> str:
    "The same command once more, without the fault, ends as an undisturbed run."
    done()
    good(place, *STEPS[name].command(name))
    return exactly(place / name, name)


def under_way(place: Path, name: str, process: subprocess.Popen) -> None:
    when(process, lambda: any(p.stat().st_size for p in (place / name).glob(STEPS[name].under_way)))


def cut(path: Path, share: float = 0.0) -> Path:
    "Cut a file inside its last row, or to a share of its size."
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * share)] if share else raw.rstrip(b'\n')[:-5])
    return path


@contextmanager
def full(folder: Path, free: int = 0, size: str = '3m') -> Iterator[Path]:
    "A disk of that size under a folder, with so many bytes left; `(folder / '.filler').unlink()` makes room."
    folder.mkdir(parents=True, exist_ok=True)
    if not mount(folder, f'size={size}'):
        raise Unmet('no small disk could be mounted: this takes root')
    try:
        room = shutil.disk_usage(folder).free - free
        (folder / '.filler').write_bytes(bytes(max(0, room)))
        yield folder
    finally:
        subprocess.run(['umount', '-l', folder], check=True)


# ---- every phase: killed, terminated, full, read-only, twice at once --------------------------------------------


def stopped(name: str, how: signal.Signals) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        process = begin(place, *STEPS[name].command(name))
        under_way(place, name, process)
        stop(place, process, how)
        return same_again(place, name)

    return play


def disk_full(name: str) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        with full(place / name, size='64m') as disk:
            said = refused(actrep(place, *STEPS[name].command(name)), 'No space left|File too large', name, 'make room')
            (disk / '.filler').unlink()
            return f'{said}; with room the same command {same_again(place, name)}'

    return play


def cannot_write(name: str) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        (place / name).mkdir()
        with only_read(place / name) as arranged:
            if not arranged:
                raise Unmet('nothing keeps this user from writing: this takes root')
            return refused(
                actrep(place, *STEPS[name].command(name)),
                'Read-only|read-only|Permission denied|permission denied',
                name,
                'can be written to|another',
            )

    return play


@contextmanager
def halted(process: subprocess.Popen) -> Iterator[None]:
    """A command stands still, and owns its folder as before: on a slow machine it would be done before another one has
    begun.
    """
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def twice(name: str) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        first = begin(place, *STEPS[name].command(name))
        under_way(place, name, first)
        with halted(first):
            said = refused(
                actrep(place, *STEPS[name].command(name)), 'works on a run in this folder', 'name another folder'
            )
        if ended(first)[0]:
            raise Unmet(f'the first one failed: {tail(first)}')
        return f'{said}; the first {exactly(place / name, name)}'

    return play


for step_name in STEPS:
    fault(step_name, 'killed -9 midway, the same command again')(stopped(step_name, signal.SIGKILL))
    fault(step_name, 'terminated midway, the same command again')(stopped(step_name, signal.SIGTERM))
    fault(step_name, 'disk full under its folder')(disk_full(step_name))
    fault(step_name, 'its folder is read-only')(cannot_write(step_name))
    fault(step_name, 'twice at once')(twice(step_name))


# ---- torn and damaged inputs ------------------------------------------------------------------------------------


def torn_input(name: str, file: str, words: tuple[str, ...], share: float = 0.0) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        cut(place / file, share)
        return refused(actrep(place, *STEPS[name].command(name)), *words)

    return play


TORN = (
    ('cot', 'draw/train.csv', ('train.csv', 'row|line|cut'), 0.0),
    ('sft', 'cot/cot.jsonl', ('cot.jsonl', r'line \d+', 'again'), 0.0),
    ('sft', 'cot/train.jsonl', ('train.jsonl', 'row|line'), 0.0),
    ('select', 'draw/rl.jsonl', ('rl.jsonl', 'row|line'), 0.0),
    ('grpo', 'draw/rl.jsonl', ('rl.jsonl', 'row|line'), 0.0),
    ('select', 'sft/checkpoint/model.safetensors', ('sft/checkpoint',), 0.5),
    ('evaluate', 'sft/checkpoint/config.json', ('sft/checkpoint',), 0.5),
    ('evaluate', 'draw/test.csv', ('test.csv', 'row|line|cut'), 0.0),
    ('report', 'evaluate/predictions.jsonl', ('predictions.jsonl', r'line \d+', 'again'), 0.0),
    ('report', 'evaluate/results.json', ('results.json', 'again'), 0.5),
    ('report', 'cot/cot.jsonl', ('cot.jsonl', r'line \d+', 'again'), 0.0),
)
for step_name, torn_file, expected, torn_share in TORN:
    fault(step_name, f'{Path(torn_file).parent.name}/{Path(torn_file).name} is cut off')(
        torn_input(step_name, torn_file, expected, torn_share)
    )


@fault('sft', 'the last checkpoint is torn (optimizer.pt), the same command again')
def torn_checkpoint(place: Path) -> str:
    copied(place, *before('sft'))
    process = begin(place, *STEPS['sft'].command('sft'))
    under_way(place, 'sft', process)
    stop(place, process, signal.SIGKILL)
    cut(sorted((place / 'sft').glob('checkpoint-[0-9]*'))[-1] / 'optimizer.pt', 0.5)
    return same_again(place, 'sft')


def torn_tail(name: str, pattern: str) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        process = begin(place, *STEPS[name].command(name))
        under_way(place, name, process)
        stop(place, process, signal.SIGKILL)
        for path in (place / name).glob(pattern):
            with open(path, 'ab') as file:
                file.write(b'{"id": "half a r')
        return same_again(place, name)

    return play


fault('select', 'killed inside a row of answers.jsonl, the same command again')(torn_tail('select', 'answers.jsonl'))
fault('evaluate', 'killed inside a row of unfinished answers, the same command again')(
    torn_tail('evaluate', 'unfinished/*.jsonl')
)
fault('sft', 'killed inside a row of log.jsonl, the same command again')(torn_tail('sft', 'log.jsonl'))
fault('grpo', 'killed inside a row of log.jsonl and samples.jsonl, the same command again')(
    torn_tail('grpo', '*.jsonl')
)


# ---- numbers that are none, weights that are missing ------------------------------------------------------------


def no_checkpoint(folder: Path) -> None:
    if (folder / 'checkpoint').exists():
        raise Unmet('a final checkpoint was written')


BRIEF = '''from actrep_nb.rewards import REWARDS
REWARDS["brief"] = lambda completions, clips, **context: [1 / (1 + len(text)) for text in completions]
'''  # a reward under which completions that are cut off differ, so that there is something to learn


def diverges(name: str, *more: str) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        (place / 'brief.py').write_text(BRIEF)
        pays = ('-p', 'rewards=brief=1', '-p', 'recipe=grpo', '--plugin', 'brief.py') if name == 'grpo' else ()
        said = refused(
            actrep(place, *STEPS[name].command(name, 'lr=1e3'), *pays, *more),
            'NaN|nan|infinit|not finite|no number',
            'step',
            'checkpoint|lr',
        )
        no_checkpoint(place / name)
        return said

    return play


fault('sft', 'lr=1e3: the loss is no number')(diverges('sft'))
fault('grpo', 'lr=1e3: weights are no numbers')(diverges('grpo'))


def spoilt_weights(change: str) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, 'draw', 'cot')
        shutil.copytree(BASE, place / 'base')
        script = (
            'import sys, torch; from safetensors.torch import load_file, save_file; f = "base/model.safetensors"; w '
            '= dict(load_file(f)); k = sorted(w)[3]\n' + change + '\nsave_file(w, f, {"format": "pt"}); print(k)'
        )
        done = subprocess.run(
            [sys.executable, '-c', script],
            cwd=place,
            env=environment(place.parent.name),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Unmet(done.stderr[-400:])
        return refused(
            actrep(place, *STEPS['sft'].command('sft', 'model=base')),
            re.escape(done.stdout.strip().split('.', 1)[-1].rsplit('.', 1)[0]),
        )

    return play


fault('sft', 'a weight is missing from the checkpoint')(spoilt_weights('del w[k]'))
fault('sft', 'a weight of the checkpoint is NaN')(spoilt_weights('w[k].view(-1)[0] = float("nan")'))


@fault('sft', 'one byte of its finished checkpoint was changed, the same command again')
def byte_flipped(place: Path) -> str:
    copied(place, *before('grpo'))
    weights = place / 'sft/checkpoint/model.safetensors'
    raw = bytearray(weights.read_bytes())
    raw[-1000] ^= 1
    weights.write_bytes(raw)
    said = refused(actrep(place, *STEPS['sft'].command('sft')), 'sft/checkpoint/model.safetensors', 'restore it')
    if weights.read_bytes() != raw:
        raise Unmet('it was written over')
    return said


@fault('cot', 'its folder is the one of its own input')
def own_folder(place: Path) -> str:
    copied(place, *before('cot'))
    table = next((place / 'draw').glob('train.csv'))
    (place / 'mine').mkdir()
    shutil.copy(table, place / 'mine/train.csv')
    kept = (place / 'mine/train.csv').read_bytes()
    said = refused(actrep(place, 'run', 'cot', '-p', 'clips', 'mine/train.csv', '--out', 'mine'), 'no run.s folder')
    if (place / 'mine/train.csv').read_bytes() != kept or len(list((place / 'mine').iterdir())) > 1:
        raise Unmet('it was written into')
    return said


# ---- two ranks --------------------------------------------------------------------------------------------------


@fault('sft, 2 ranks', 'one rank is killed -9, the same command again')
def rank_killed(place: Path) -> str:
    copied(place, *before('sft'))
    command = [*STEPS['sft'].command('sft'), '--ranks', '2']
    undone = copied(Path(tempfile.mkdtemp(dir=place.parent)), *before('sft'))
    good(undone, *command)
    process = begin(place, *command)
    under_way(place, 'sft', process)
    kernels = [pid for pid in alive(place.parent.name) if b"['kernel']" in Path(f'/proc/{pid}/cmdline').read_bytes()]
    if len(kernels) < 2:
        raise Unmet(f'{len(kernels)} kernels ran')
    os.kill(max(kernels), signal.SIGKILL)
    said = refused(ended(process), 'rank|kernel|died|killed')
    nobody_left(place)
    good(place, *command)
    if results(place / 'sft', 'sft') != results(undone / 'sft', 'sft'):
        raise Unmet('not the same as undisturbed on two ranks')
    return f'{said}; the same command again survived exactly'


fault('sft, 2 ranks', 'lr=1e3: the loss is no number')(diverges('sft', '--ranks', '2'))
fault('grpo, 2 ranks', 'lr=1e3: weights are no numbers')(diverges('grpo', '--ranks', '2'))


@fault('sft, 2 ranks', 'disk full under its folder')
def ranks_full(place: Path) -> str:
    copied(place, *before('sft'))
    with full(place / 'sft', 500_000):
        said = refused(
            actrep(place, *STEPS['sft'].command('sft'), '--ranks', '2'), 'No space left|file write failed|too large'
        )
    nobody_left(place)
    return said


@fault('evaluate, 2 ranks', 'terminated midway, the same command again')
def ranks_terminated(place: Path) -> str:
    copied(place, *before('evaluate'))
    process = begin(place, *STEPS['evaluate'].command('evaluate'), '--ranks', '2')
    when(
        process,
        lambda: (
            'answering' in process.log.read_text(errors='replace') or any((place / 'evaluate').glob('unfinished/*'))
        ),
    )
    stop(place, process, signal.SIGTERM)
    good(place, *STEPS['evaluate'].command('evaluate'), '--ranks', '2')
    return exactly(place / 'evaluate', 'evaluate')


# ---- caches -----------------------------------------------------------------------------------------------------


def cached(
    name: str,
    prepare: Callable[[Path], object] = lambda cache: None,
    full_disk: bool = False,
    locked: bool = False,
    warns: bool = False,
) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before(name))
        command, cache = STEPS[name].command(name, 'cache=frames'), place / 'frames'
        if full_disk:
            with full(cache):
                said = good(place, *command)
        elif locked:
            cache.mkdir()
            with only_read(cache) as arranged:
                if not arranged:
                    raise Unmet('nothing keeps this user from writing: this takes root')
                said = good(place, *command)
        else:
            good(place, *command)
            prepare(cache)
            said = good(place, *STEPS[name].command(f'{name}-2', 'cache=frames'))
            exactly(place / f'{name}-2', name)
        told = [' '.join(line.split())[:200] for line in said.splitlines() if 'nothing more is kept' in line]
        if warns and len(told) != 1:
            raise Unmet(f'{len(told)} warnings instead of one: {said[-300:]}')
        return exactly(place / name, name) + (f'; said once: {told[0]}' if told else '')

    return play


def half_of_all(pattern: str) -> Callable[[Path], None]:
    def spoil(cache: Path) -> None:
        files = sorted(cache.rglob(pattern))
        if not files:
            raise Unmet(f'no {pattern} in the cache')
        for path in files:
            cut(path, 0.5)

    return spoil


for step_name in ('sft', 'select', 'grpo', 'evaluate'):
    fault('cache', f'{step_name} with a cache on a full disk of 3 MB')(cached(step_name, full_disk=True, warns=True))
for step_name in ('sft', 'evaluate'):
    fault('cache', f'{step_name} with a cache on a disk that is only read')(cached(step_name, locked=True, warns=True))
fault('cache', 'frames are torn')(cached('evaluate', half_of_all('*.npy')))
fault('cache', 'notes are torn')(cached('evaluate', half_of_all('*.json')))
fault('cache', 'features are torn')(cached('sft', half_of_all('*.safetensors')))
fault('cache', 'it was deleted between two runs')(cached('evaluate', lambda cache: shutil.rmtree(cache)))


@fault('cache', 'two trainings at once with the same empty cache')
def cache_shared(place: Path) -> str:
    copied(place, *before('sft'))
    both = [begin(place, *STEPS['sft'].command(name, 'cache=frames')) for name in ('sft', 'other')]
    if any(ended(p)[0] for p in both):
        raise Unmet(tail(both[1]))
    exactly(place / 'other', 'sft')
    return exactly(place / 'sft', 'sft')


@fault('cache', 'its folder is a file')
def cache_is_file(place: Path) -> str:
    copied(place, *before('evaluate'))
    (place / 'frames').write_text('mine')
    return refused(
        actrep(place, *STEPS['evaluate'].command('evaluate', 'cache=frames')), 'frames', 'is a file', 'name a folder'
    )


# ---- an API -----------------------------------------------------------------------------------------------------


def asked_of(place: Path, url: str) -> list[str]:
    return [
        'evaluate',
        'draw/test.csv',
        '--videos',
        'draw/videos',
        '--model',
        'openai:tiny',
        '--base-url',
        f'{url}/v1',
        '--replies',
        'replies',
        '--out',
        'judged',
        '--concurrency',
        '1',
    ]


def counts(place: Path) -> list[object]:
    return [json.loads(line)['count'] for line in (place / 'judged/predictions.jsonl').read_text().splitlines()]


def answered(place: Path) -> str:
    if counts(place) != [2] * 6:
        raise Unmet(f'counts are {counts(place)}')
    return 'survived exactly: every answer is there'


@fault('API', 'the folder of replies is on a full disk')
def replies_full(place: Path) -> str:
    copied(place, 'draw')
    with served(upstream()) as url, full(place / 'replies'):
        said = good(place, *asked_of(place, url))
    told = [line for line in said.splitlines() if 'could not be kept' in line]
    if not told:
        raise Unmet(f'nothing says that answers were not kept: {said[-400:]}')
    return f'{answered(place)}; said: {told[0][:200]}'


@fault('API', 'the folder of replies is only read')
def replies_locked(place: Path) -> str:
    copied(place, 'draw')
    (place / 'replies').mkdir()
    with served(upstream()) as url, only_read(place / 'replies') as arranged:
        if not arranged:
            raise Unmet('nothing keeps this user from writing: this takes root')
        said = good(place, *asked_of(place, url))
    if 'cannot be kept' not in said:
        raise Unmet(f'nothing says that answers were not kept: {said[-400:]}')
    return f'{answered(place)}; it is said that they could not be kept'


def api_stopped(how: signal.Signals) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, 'draw')
        server = upstream(delay=0.3)
        with served(server) as url:
            process = begin(place, *asked_of(place, url))
            when(process, lambda: len(list((place / 'replies').glob('*.json'))) >= 2)
            stop(place, process, how)
            good(place, *asked_of(place, url))
        again = len(server.asked) - len(set(server.asked))
        if again > 1:
            raise Unmet(f'{again} requests were sent twice')
        return f'{answered(place)}; {again} of 6 requests sent twice, the one under way'

    return play


fault('API', 'killed -9 midway, the same command again')(api_stopped(signal.SIGKILL))
fault('API', 'terminated midway, the same command again')(api_stopped(signal.SIGTERM))


@fault('API', 'a reply that was kept is torn')
def reply_torn(place: Path) -> str:
    copied(place, 'draw')
    with served(upstream()) as url:
        good(place, *asked_of(place, url))
        cut(sorted((place / 'replies').glob('*.json'))[0], 0.5)
        said = refused(actrep(place, *asked_of(place, url)), 'replies', 'damaged', 'delete it')
    return said


@fault('API', 'two evaluations at once with the same replies')
def replies_shared(place: Path) -> str:
    copied(place, 'draw')
    server = upstream(delay=0.2)
    with served(server) as url:
        commands = [[*asked_of(place, url)[:-4], '--out', name, '--concurrency', '1'] for name in ('judged', 'other')]
        both = [begin(place, *command) for command in commands]
        if any(ended(p)[0] for p in both):
            raise Unmet(tail(both[1]))
    if len(server.asked) != 6:
        raise Unmet(f'{len(server.asked)} requests were sent for 6 clips')
    return f'{answered(place)}; each request was sent once'


@fault('API', 'a completion full of markup')
def reply_hostile(place: Path) -> str:
    copied(place, 'draw')
    bad = '<answer>2</answer><script>document.title="run"</script><img src=x onerror=alert(1)>'
    with served(upstream(bad)) as url:
        good(place, *asked_of(place, url))
    good(place, 'why', 'judged', 'draw/test.csv', '--videos', 'draw/videos')
    return shown_as_text((place / 'judged/errors.html').read_text())


# ---- strangers' text --------------------------------------------------------------------------------------------

MARKUP = '<script>document.title="run"</script><img src=x onerror=alert(1)>'


def shown_as_text(page: str) -> str:
    "The outcome, if no markup of a stranger is live in a page."
    live = re.findall(r'<script>document\.title|<img src=x', page)
    if live or 'document.title' not in page:
        raise Unmet(f'live: {live[:2]}' if live else 'the text is not in the page')
    return 'survived exactly: the text is shown, and is nothing but text'


@fault('audit', 'an action full of markup')
def hostile_action(place: Path) -> str:
    copied(place, 'draw')
    with open(place / 'clips.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['file', 'action', 'count'], ['a.mp4', MARKUP, 3], ['b.mp4', 'squat', 2]])
    good(place, 'audit', 'clips.csv', '--html', 'audit.html')
    return shown_as_text((place / 'audit.html').read_text())


@fault('audit', 'a cell that a spreadsheet would take for a formula')
def hostile_cell(place: Path) -> str:
    with open(place / 'clips.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['file', 'action', 'count'], ['a.mp4', '=HYPERLINK("http://x","y")', 3]])
    good(place, 'audit', 'clips.csv', '--write', 'kept.csv')
    if re.search(r'(^|,|")=HYPERLINK', (place / 'kept.csv').read_text()):
        raise Unmet('the formula is live in kept.csv')
    return 'survived exactly: the cell is written as text'


@fault('run', "a stranger's notebook with code among its parameters, --show")
def hostile_notebook(place: Path) -> str:
    code = 'n: int = 3  # how many\nx: __import__("pathlib").Path("canary").touch() = 1  # never run'
    (place / 'theirs.ipynb').write_text(
        json.dumps(
            {
                'nbformat': 4,
                'nbformat_minor': 5,
                'metadata': {},
                'cells': [
                    {
                        'cell_type': 'code',
                        'id': 'a',
                        'metadata': {'tags': ['parameters']},
                        'execution_count': None,
                        'outputs': [],
                        'source': code,
                    }
                ],
            }
        )
    )
    status, said = actrep(place, 'run', 'theirs.ipynb', '--show')
    if (place / 'canary').exists():
        raise Unmet('its code was run')
    return (
        f'refused: {" ".join(said.split())[-200:]}'
        if status
        else 'survived exactly: the parameters are listed, no code was run'
    )


@fault('draw', 'a video named out of its folder')
def hostile_path(place: Path) -> str:
    copied(place, 'draw')
    shutil.copy(next((place / 'draw/videos').glob('*.mp4')), place / 'secret.mp4')
    with open(place / 'draw/clips.csv', 'w', newline='') as file:
        csv.writer(file).writerows([['file', 'action', 'count'], ['../../secret.mp4', 'squat', 3]])
    return refused(
        actrep(place, 'evaluate', 'draw/clips.csv', '--videos', 'draw/videos', '--model', 'period', '--out', 'judged'),
        'secret.mp4',
        'outside|leave|folder',
    )


@fault('count', 'a film that is cut off')
def torn_film(place: Path) -> str:
    copied(place, 'draw')
    shutil.copy(next((place / 'draw/videos').glob('test*.mp4')), place / 'a.mp4')
    cut(place / 'a.mp4', 0.3)
    status, said = actrep(place, 'count', 'a.mp4', '--model', 'period')
    if status:
        return refused((status, said), 'a.mp4', 'again|cut off|cannot be')
    warned = re.search(r'take care: .*(damaged|ends at).*', said)  # what can be read of it is counted
    if not warned:
        raise Unmet(f'it was counted, and nothing said of the damage: {said[-300:]}')
    return f'survived exactly: what can be read is counted; said: {warned[0][:200]}'


@fault('count', 'disk full where its picture goes')
def picture_full(place: Path) -> str:
    copied(place, 'draw')
    shutil.copy(next((place / 'draw/videos').glob('test*.mp4')), place / 'a.mp4')
    with full(place / 'out') as disk:
        said = refused(
            actrep(place, 'count', 'a.mp4', '--model', 'period', '--out', 'out', '--write', 'png'),
            'timeline.png',
            'No space left',
            'make room',
        )
        if [p.name for p in disk.iterdir() if p.name != '.filler' and p.stat().st_size]:
            raise Unmet('something half written is left')
    return said


def merged_on(options: Callable[[Path], object]) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, 'draw', 'cot')
        good(place, *STEPS['sft'].command('lora', 'lora_rank=2', 'steps=2', 'save_steps=0'))
        with options(place / 'whole'):
            said = refused(actrep(place, 'merge', 'lora', '--out', 'whole/merged'), 'whole', 'make room|can be written')
        if (place / 'whole/merged/config.json').exists():
            raise Unmet('half a checkpoint is left')
        return said

    return play


fault('merge', 'disk full where the checkpoint goes')(merged_on(lambda folder: full(folder, 1_000_000)))


# ---- sweep and demo ---------------------------------------------------------------------------------------------

SWEEP = (
    'sweep',
    '03_sft',
    '--grid',
    'seed=0,1',
    *(word for p in STEPS['sft'].parameters for word in ('-p', p)),
    '--out',
    'sweep',
)


def weights_of(place: Path) -> dict[str, str]:
    return {
        str(p.relative_to(place)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted((place / 'sweep').glob('*/checkpoint/model.safetensors'))
    }


def sweep_stopped(how: signal.Signals) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        copied(place, *before('sft'))
        process = begin(place, *SWEEP)
        when(
            process,
            lambda: (
                weights_of(place)
                and any(p for p in (place / 'sweep').glob('*/checkpoint-2') if not (p.parent / 'checkpoint').exists())
            ),
        )
        kept = {name: (place / name).stat().st_mtime_ns for name in weights_of(place)}
        stop(place, process, how)
        good(place, *SWEEP)
        again = [name for name, date in kept.items() if (place / name).stat().st_mtime_ns != date]
        first, wanted = (
            next(iter(sorted(weights_of(place).values()))),
            hashlib.sha256((undisturbed() / 'sft/checkpoint/model.safetensors').read_bytes()).hexdigest(),
        )
        if again:
            raise Unmet(f'done again: {again}')
        if len(weights_of(place)) != 2 or wanted not in weights_of(place).values():
            raise Unmet(f'{len(weights_of(place))} runs, the first is {first[:8]}')
        return 'survived exactly: what was done was not done again, the rest ended as undisturbed'

    return play


fault('sweep', 'killed -9 in its second run, the same command again')(sweep_stopped(signal.SIGKILL))
fault('sweep', 'terminated in its second run, the same command again')(sweep_stopped(signal.SIGTERM))


@fault('sweep', 'twice at once')
def sweep_twice(place: Path) -> str:
    copied(place, *before('sft'))
    first = begin(place, *SWEEP)
    when(first, lambda: any((place / 'sweep').glob('*/manifest.json')))
    with halted(first):
        said = refused(actrep(place, *SWEEP), 'sweep', 'works on|another folder')
    if ended(first)[0]:
        raise Unmet(tail(first))
    return f'{said}; the first ended well' if len(weights_of(place)) == 2 else 'the first is not whole'


@fault('sweep', 'disk full under its folder')
def sweep_full(place: Path) -> str:
    copied(place, *before('sft'))
    with full(place / 'sweep', 600_000):
        said = refused(actrep(place, *SWEEP), 'No space left|failed')
    nobody_left(place)
    return said


def demo(place: Path) -> list[str]:
    return ['demo', '--size', 'small', '--out', 'demo']


DEMO_RESULTS = (
    'data/*.csv',
    'cot/*.jsonl',
    'sft/checkpoint/model.safetensors',
    'grpo/checkpoint/model.safetensors',
    'evaluate/results.json',
    'film/results.json',
)


def demo_files(place: Path) -> dict[str, str]:
    return {
        str(p.relative_to(place / 'demo')): hashlib.sha256(p.read_bytes()).hexdigest()
        for pattern in DEMO_RESULTS
        for p in sorted((place / 'demo').glob(pattern))
    }


@functools.cache
def demo_undisturbed() -> dict[str, str]:
    place = temporary_folder() / 'place'
    place.mkdir()
    good(place, *demo(place))
    return demo_files(place)


def demo_stopped(step: str, sign: str, how: signal.Signals) -> Callable[[Path], str]:
    def play(place: Path) -> str:
        wanted = demo_undisturbed()
        process = begin(place, *demo(place))
        when(process, lambda: any((place / 'demo').glob(sign)))
        done = {
            p: p.stat().st_mtime_ns
            for p in (place / 'demo').glob('*/manifest.json')
            if json.loads(p.read_text()).get('status') == 'done'
        }
        stop(place, process, how)
        good(place, *demo(place))
        if again := [p.parent.name for p, date in done.items() if p.stat().st_mtime_ns != date]:
            raise Unmet(f'done again: {again}')
        if apart := [name for name in {*wanted, *demo_files(place)} if wanted.get(name) != demo_files(place).get(name)]:
            raise Unmet(f'not the same as undisturbed: {apart[:4]}')
        return f'survived exactly: {len(wanted)} files, {len(done)} finished steps not repeated'

    return play


fault('demo', 'killed -9 in step cot', 4 * LONG)(demo_stopped('cot', 'cot/notebook.ipynb', signal.SIGKILL))
fault('demo', 'killed -9 in step sft', 4 * LONG)(demo_stopped('sft', 'sft/log.jsonl', signal.SIGKILL))
fault('demo', 'terminated in step grpo', 4 * LONG)(demo_stopped('grpo', 'grpo/log.jsonl', signal.SIGTERM))


@fault('demo', 'twice at once')
def demo_twice(place: Path) -> str:
    first = begin(place, *demo(place))
    when(first, lambda: any((place / 'demo').glob('*/manifest.json')))
    said = refused(actrep(place, *demo(place)), 'demo', 'works on|another folder')
    stop(place, first, signal.SIGTERM)
    return said


# ---- all of them ------------------------------------------------------------------------------------------------


def played(scenario: Scenario) -> tuple[str, str]:
    "Outcome and message of a scenario, whatever happens in it."
    home = Path(tempfile.mkdtemp(prefix='fault-'))
    (home / 'place').mkdir()
    found: list[tuple[str, str]] = []

    def work() -> None:
        try:
            outcome, _, message = scenario.play(home / 'place').partition(': ')
            found.append((outcome, message))
        except Unmet as e:
            found.append(('FAULT', str(e)))
        except Exception as e:
            found.append(('FAULT', f'{type(e).__name__}: {e} ({traceback.extract_tb(e.__traceback__)[-1].lineno})'))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(scenario.seconds)
    for pid in alive(home.name):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    thread.join(60)
    shutil.rmtree(home, ignore_errors=True)
    return found[0] if found else ('FAULT', f'not over after {scenario.seconds:.0f} s')


def row(scenario: Scenario, outcome: str, message: str) -> str:
    def cell(text: str) -> str:
        text = re.sub(r'(/[\w.-]+)*/(fault|actrep)-\w+/place/', '', ' '.join(text.split())).replace(str(root), '.')
        return text.replace('|', '\\|').replace('<', '&lt;')[:360]

    return f'| {scenario.phase} | {cell(scenario.fault)} | {outcome} | {cell(message)} |'


HEAD = '''# Faults and what comes of them

`make faults` plants each fault in real processes on the tiny model and looks at what is left: the bytes of an
undisturbed run, or a refusal that names the file and the cure. FAULT is neither. Times are not part of it.

{summary}

| phase | fault | outcome | message |
|---|---|---|---|
'''


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--only',
        default='',
        help='regular expression: scenarios whose phase or fault it matches; the table is printed, not written',
    )
    parser.add_argument('--list', action='store_true', help='name the scenarios, run none')
    parser.add_argument(
        '--inputs',
        type=Path,
        help='folder in which the undisturbed steps are kept for the next time; empty it when the code has changed',
    )
    parser.add_argument('--out', type=Path, default=root / 'benchmarks/faults.md')
    asked = parser.parse_args()
    global INPUTS
    INPUTS = asked.inputs.resolve() if asked.inputs else None
    chosen = [s for s in SCENARIOS if re.search(asked.only, f'{s.phase}: {s.fault}')]
    if asked.list or not chosen:
        print('\n'.join(f'{s.phase}: {s.fault}' for s in chosen or SCENARIOS))
        return 0 if asked.list else 2
    rows, failed = [], 0
    for k, scenario in enumerate(chosen, 1):
        begun = time.monotonic()
        outcome, message = played(scenario)
        failed += outcome == 'FAULT'
        rows.append(row(scenario, outcome, message))
        print(f'{k}/{len(chosen)} {time.monotonic() - begun:5.0f} s {rows[-1]}', flush=True)
    summary = (
        f'{len(rows)} faults: {sum("| survived exactly |" in r for r in rows)} survived exactly, '
        f'{sum("| refused |" in r for r in rows)} refused, {failed} FAULT.'
    )
    print(summary)
    if not asked.only:
        write_whole(asked.out, HEAD.format(summary=summary) + '\n'.join(rows) + '\n')
    return int(failed > 0)


if __name__ == '__main__':
    sys.exit(main())
