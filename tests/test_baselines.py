"Counters that understand nothing: exact on movements with a known period, and never a crash."
import numpy as np
import pytest

from actrep_nb.baselines import COUNTERS, ClassMedianCounter, ConstantCounter, PeriodCounter, count_peaks, fitted_counters, motion_signal, periodicity
from actrep_nb.records import Clip
from actrep_nb.video import Frames, write_video


def moving_square(repetitions, seconds, fps=10, size=64, lead=0.0):
    "A square that goes down and up; still for `lead` seconds at either end."
    out = np.full((int(seconds * fps), size, size, 3), 230, np.uint8)
    for i, frame in enumerate(out):
        u = min(max((i / fps - lead) / (seconds - 2 * lead), 0), 1)
        y = int(size * (0.2 + 0.08 * (1 - np.cos(2 * np.pi * repetitions * u))))  # travels less than its size: one component
        frame[y : y + 28, 20:48] = (30, 60, 160)
    return out


@pytest.mark.parametrize("repetitions, seconds, lead", [(2, 6, 0.5), (5, 10, 1.0), (9, 12, 0.5), (12, 16, 2.0)])
def test_period_counter_counts_what_is_known(tmp_path, repetitions, seconds, lead):
    path = write_video(tmp_path / "square.mp4", moving_square(repetitions, seconds, lead=lead), fps=10)
    period = (seconds - 2 * lead) / repetitions
    truth = [(lead + k * period, lead + (k + 1) * period) for k in range(repetitions)]
    (p,) = PeriodCounter().predict([Clip(str(path), "square", repetitions, truth)], progress=False)
    assert (p.count, p.true, p.problems) == (repetitions, repetitions, ()) and len(p.cycles) == repetitions
    for (a, b), (c, d) in zip(p.cycles, truth): assert 0 <= a < b <= seconds and min(b, d) - max(a, c) > 0.3 * period


def test_period_counter_on_a_window(tmp_path):
    path = write_video(tmp_path / "square.mp4", moving_square(10, 20), fps=10)
    (p,) = PeriodCounter().predict([Clip(str(path), "", 4, window=(4.0, 12.0))], progress=False)
    assert p.count == 4 and max(b for _, b in p.cycles) <= 8


def test_nothing_moves(tmp_path):
    path = write_video(tmp_path / "still.mp4", np.full((40, 64, 64, 3), 90, np.uint8), fps=10)
    (p,) = PeriodCounter().predict([Clip(str(path), "", 0)], progress=False)
    assert (p.count, p.cycles) == (0, ())


def test_one_answer_for_each_clip_in_order_whatever_the_files_are(tmp_path):
    good = write_video(tmp_path / "good.mp4", moving_square(4, 8), fps=10)
    one = write_video(tmp_path / "one.mp4", moving_square(1, 0.1), fps=10)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    clips = [Clip(str(tmp_path / n), "", 4) for n in ("gone.mp4", "good.mp4", "text.mp4", "one.mp4", "empty.mp4")]
    answers = PeriodCounter().predict(clips, progress=False)
    assert [p.id for p in answers] == ["gone", "good", "text", "one", "empty"]
    assert [p.count for p in answers] == [None, 4, None, 0, None] and good and one
    assert all(p.problems and c.id in p.problems[0] for p, c in zip(answers, clips) if p.count is None)


def test_periodicity_of_known_signals():
    t = np.arange(0, 12, 0.1)
    assert periodicity(np.sin(2 * np.pi * t / 1.5)) > 0.95
    assert periodicity(t) == 0 and periodicity(np.zeros(40)) == 0 and periodicity(np.zeros(2)) == 0
    assert periodicity(np.random.default_rng(0).normal(size=400)) < 0.4


def test_peaks_are_counted_above_noise():
    t = np.arange(0, 10, 0.1)
    wave = -np.cos(2 * np.pi * t / 2) + 0.1 * np.random.default_rng(0).normal(size=100)
    count, cycles = count_peaks(wave, t)
    assert count == 5 and all(b - a == pytest.approx(2, abs=0.5) for a, b in cycles)
    assert count_peaks(np.zeros(30), t[:30]) == (0, ())
    assert all(np.isfinite(motion_signal(Frames(np.zeros((n, 4, 4, 3), np.uint8), t[:n], 10.0))).all() for n in (2, 4, 6))


def clips(counts, action="squat"): return [Clip(f"{action}{k}.mp4", action, n) for k, n in enumerate(counts)]


def test_constant_is_the_best_there_is():
    train = clips([1, 2, 2, 7, 9, 30])
    k = ConstantCounter().fit(train).k
    errors = [sum(abs(c.count - j) for c in train) for j in range(31)]
    assert errors[k] == min(errors) and [p.count for p in ConstantCounter(5).predict(train)] == [5] * 6
    with pytest.raises(ValueError, match="fit"): ConstantCounter().predict(train)
    with pytest.raises(ValueError, match="no clips"): ConstantCounter().fit([])


def test_class_median_falls_back_to_all():
    counter = ClassMedianCounter().fit(clips([4, 5, 6]) + clips([20, 30, 40], "jump_jack"))
    asked = [Clip("x.mp4", a, 1) for a in ("squat", "jump_jack", "juggling")]
    assert [p.count for p in counter.predict(asked)] == [5, 30, 6] and [p.true for p in counter.predict(asked)] == [1, 1, 1]
    with pytest.raises(ValueError, match="fit"): ClassMedianCounter().predict(asked)


def test_registry():
    fitted = fitted_counters(clips([3, 4, 5]))
    assert list(fitted) == ["constant", "class_median", "period"] and set(fitted) <= set(COUNTERS) and fitted["constant"].k == 4
    with pytest.raises(ValueError, match="'perod' is unknown"): fitted_counters(clips([1]), ["perod"])
