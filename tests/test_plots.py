"""Plots: every picture is drawn from the records it claims to show, including the awkward ones."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from actrep_nb.plots import (
    plot_completion_length,
    plot_count_distribution,
    plot_entropy,
    plot_error_by_count,
    plot_group_mix,
    plot_loss,
    plot_metric_table,
    plot_paired,
    plot_predicted_vs_true,
    plot_reward_curves,
    plot_timeline,
    smooth,
)
from actrep_nb.records import Clip, Prediction
from actrep_nb.video import Frames

LOG = [
    {
        "step": s,
        "reward": s / 9,
        "reward/format": 1.0,
        "reward/count": None if s == 3 else s / 9,
        "completion_length": 50 + s,
        "truncated": 0.0,
        "entropy": 1 / s,
        "group/all_right": 0.2,
        "group/mixed": 0.5,
        "group/all_wrong": 0.3,
        "loss": 1 / s,
    }
    for s in range(1, 10)
]


def drawn(fig):
    assert isinstance(fig, Figure)
    fig.canvas.draw()
    return fig


@pytest.mark.parametrize("n", [1, 2, 9])
@pytest.mark.parametrize("plot", [plot_loss, plot_reward_curves, plot_completion_length, plot_entropy, plot_group_mix])
def test_logs_of_any_length_draw(plot, n):
    drawn(plot(LOG[:n]))


@pytest.mark.parametrize(
    "plot, missing",
    [
        (plot_loss, "loss"),
        (plot_reward_curves, "reward"),
        (plot_group_mix, "group/all_wrong"),
        (plot_entropy, "entropy"),
    ],
)
def test_a_log_without_the_column_is_named(plot, missing):
    with pytest.raises(ValueError, match=f"the log has no .*{missing}"):
        plot([{"step": 1, "other": 2}])


def test_reward_curves_have_one_panel_per_component():
    titles = [ax.get_title(loc="left") or ax.get_title() for ax in plot_reward_curves(LOG).axes]
    assert titles == ["weighted sum", "count", "format"]


def test_a_missing_value_is_a_gap_not_a_zero():
    panel = plot_reward_curves(LOG).axes[1]
    assert 3 not in panel.lines[0].get_xdata() and len(panel.lines[0].get_xdata()) == 8


@pytest.mark.parametrize("plot, name", [(plot_entropy, "entropy"), (plot_loss, "loss")])
def test_a_column_that_holds_no_number_draws(plot, name):
    "As where no answer of a run was used: null in every line."
    [ax] = drawn(plot([{"step": s, name: None} for s in (1, 2)])).axes
    assert "nothing was logged" in [t.get_text() for t in ax.texts]


def test_group_mix_stacks_to_one():
    top = drawn(plot_group_mix(LOG)).axes[0].collections[-1].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(1.0)


def test_smooth_is_the_mean_of_a_window_and_keeps_constants():
    rng = np.random.default_rng(0)
    y = rng.normal(size=50)
    for i, v in enumerate(smooth(y, 7)):
        assert v == pytest.approx(y[max(0, i - 3) : i + 4].mean())
    assert np.allclose(smooth(np.full(20, 2.5)), 2.5)


def test_every_prediction_is_on_the_picture():
    ps = [
        Prediction("a", 3, true=3),
        Prediction("b", None, true=4),
        Prediction("c", 99, true=2),
        Prediction("d", 0, true=0),
        Prediction("e", 3, true=3),
    ]
    ax = drawn(plot_predicted_vs_true({"m": ps})).axes[0]
    points = np.concatenate([c.get_offsets() for c in ax.collections if len(c.get_offsets())])
    assert [0, 0] in points.tolist() and [3, 3] in points.tolist() and [4, -1.5] in points.tolist()
    assert any(x == 2 and y > 4 for x, y in points)
    assert "none" in [t.get_text() for t in ax.get_yticklabels()]


def test_predictions_without_truth_are_refused():
    for plot in (plot_predicted_vs_true, plot_error_by_count):
        with pytest.raises(ValueError, match="first is x"):
            plot({"m": [Prediction("x", 1)]})


def test_large_counts_are_binned():
    ps = [Prediction(str(i), i, true=i) for i in range(0, 142, 3)]
    labels = [t.get_text() for t in drawn(plot_error_by_count({"m": ps})).axes[0].get_xticklabels()]
    assert "6–10" in labels and "41+" in labels
    clips = [Clip(f"{i}.mp4", "", i) for i in range(142)]
    bars = drawn(plot_count_distribution(clips, clips[:3])).axes[0].patches
    assert len(bars) <= 40 and sum(b.get_height() for b in bars) == 142


def test_tables_draw():
    cell = {"value": 0.5, "lo": 0.4, "hi": 0.6}
    results = {
        "models": {m: {k: cell for k in ("obo", "exact", "mae")} for m in ("base", "sft")},
        "paired": {"sft-base": {k: cell for k in ("obo", "mae")}},
    }
    drawn(plot_metric_table(results))
    drawn(plot_paired(results))


@pytest.mark.parametrize("shape", [(4, 56, 56, 3), (64, 320, 180, 3), (30, 90, 320, 3), (1, 10, 10, 3)])
def test_timelines_of_any_shape(shape):
    frames = Frames(np.zeros(shape, np.uint8), np.arange(shape[0]) / 4, 4.0)
    clip = Clip("x.mp4", "squat", 2, ((0.0, 1.0), (1.0, 2.5)))
    fig = drawn(plot_timeline(clip, Prediction("x", 3, ((0, 1), (1, 2), (2, 3)), ("a problem",)), frames))
    width, height = fig.get_size_inches()
    assert 0.8 < height < 8 and len(fig.axes[-1].patches) == 5
    drawn(plot_timeline(clip, Prediction("x", None), frames))
    drawn(plot_timeline(None, Prediction("x", 200, tuple((i / 10, (i + 1) / 10) for i in range(200)))))
