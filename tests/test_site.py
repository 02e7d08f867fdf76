"""Pages as they are published, and the pages that no notebook holds."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown import markdown

root = Path(__file__).parents[1]
sys.path.insert(0, str(root / "tools"))

from build_docs import LOOK_UP, label, links, navigation, Page, site_url  # noqa: E402
from site_check import Barriers, barriers, broken_links, finished, raw_markdown  # noqa: E402
from site_pages import (
    alternative,
    architecture_page,
    commands_page,
    exported,
    gallery_page,
    imports_of,
    laid_out,
    spread,
    WIDE,
    llms_text,
    nearest,
    names_page,
    thumbnail,
    Figure,
    module_of,
)  # noqa: E402

chapters = {
    module: f"{module}.md" for path in sorted((root / "nbs").glob("[0-9]*_*.ipynb")) if (module := module_of(path))
}


def site(folder: Path, **pages: str) -> Path:
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return folder


def test_links_that_lead_nowhere_are_found(tmp_path):
    good = (
        '<a href="b.html#there">x</a><a href="#own">x</a><p id="own"></p><a href="https://example.org/none">x</a><a '
        'href="mailto:a@b.c">x</a>'
    )
    assert broken_links(site(tmp_path, a=good, b='<p id="there"></p>')) == []
    site(
        tmp_path,
        a=good
        + '<a href="02_video.html">x</a><a href="b.html#away">x</a><a href="#gone">x</a><img src="images/none.png">',
    )
    assert broken_links(tmp_path) == [
        "a.html: #gone",
        "a.html: 02_video.html",
        "a.html: b.html#away",
        "a.html: images/none.png",
    ]
    site(tmp_path, a=good, **{"404": '<a href="/elsewhere/">x</a>'})
    assert broken_links(tmp_path) == []


def test_markdown_that_a_reader_would_see_is_found(tmp_path):
    site(tmp_path, a="<p><code>[x](y.md)</code> (z)</p><pre><code>[[1](2)</code></pre><a href='y.html'>y</a> [0] (b)")
    assert raw_markdown(tmp_path) == []
    shown = markdown("as [[`f`](b.md#f)](b.md) and [see [`f`](b.md#f) there](c.md) say")
    site(tmp_path, b=shown)
    assert raw_markdown(tmp_path) and all(found.startswith("b.html: ") for found in raw_markdown(tmp_path))
    site(tmp_path, b=markdown(links("as [[`f`](b.md#f)](b.md) and [see [`f`](b.md#f) there](c.md) say", "d.md")))
    assert raw_markdown(tmp_path) == []


def test_a_name_in_the_text_of_a_link_is_no_link_of_its_own():
    f = f"[`f`]({site_url}/answers.html#f)"
    assert links(f"[{f}](05_answers.ipynb)", "a.md") == "[`f`](answers.md#f)"  # its own place on that page
    assert links(f"[{f}](06_other.ipynb)", "a.md") == "[`f`](other.md)"
    assert links(f"[{f}](05_answers.ipynb#first)", "a.md") == "[`f`](answers.md#first)"
    assert links(f"[see {f}, or `g`](05_answers.ipynb)", "a.md") == "[see `f`, or `g`](answers.md)"
    assert links(f"({f}, [x](y.md))", "a.md") == "([`f`](answers.md#f), [x](y.md))"
    assert links("[a][0] [`f`](b.md)\n\n```\n[[`f`](b.md)](b.md)\n```", "a.md").endswith("[[`f`](b.md)](b.md)\n```")


def test_a_page_asks_no_host_and_is_read_by_everyone():
    page = finished(
        '<a data-md-component="source" href="x"></a><table border="1" '
        'class="dataframe"><tr><th></th><th>n</th></tr><tr><td>squat &amp; jump</td><td>-1.5e-3</td><td>12 '
        '%</td></tr></table>'
    )
    assert "data-md-component" not in page and "<th></th>" not in page and 'class="dataframe" tabindex="0"' in page
    assert '<td class="words">squat &amp; jump</td><td>-1.5e-3</td><td>12 %</td>' in page

    def output(lines):
        return (
            '<div class="cell-output">\n<div class="language-text highlight"><pre><span></span><code>'
            + "x\n" * lines
            + "</code></pre></div>"
        )

    assert 'class="long" tabindex="0"' in finished(output(31)) and "long" not in finished(output(30))


def test_who_would_be_kept_out_of_a_page(tmp_path):
    reach = '<script src="reach.js"></script>'
    fine = '<img alt="A curve" src="a.png"><a href="#"><img alt="" src="b.png">All</a><table><th>n</th></table>'
    assert Barriers(finished(f'{reach}{fine}<table border="1" class="dataframe"><th></th></table>')).found == []
    for words, text in {
        "without words: a.png": '<img src="a.png">',
        "without words: b.png": '<img src="b.png" alt="">',
        "a header without words": "<th> </th>",
        "a div that scrolls": '<div class="formula">',
        "a table that scrolls": '<table class="dataframe">',
    }.items():
        (found,) = Barriers(reach + fine + text).found
        assert words in found
    site(tmp_path, a="text")
    assert barriers(tmp_path) == ["a.html, code that scrolls is out of reach of the keyboard: reach.js is missing"]


def test_the_gallery_shows_small_pictures():
    from io import BytesIO

    from PIL import Image

    large = BytesIO()
    Image.new("RGBA", (1200, 300), (0, 0, 0, 0)).save(large, "PNG")
    small = Image.open(BytesIO(thumbnail(large.getvalue())))
    assert small.size == (480, 120) and small.getpixel((9, 9)) == (255, 255, 255)  # what is transparent is white


def test_words_that_are_commands_too_are_no_links():
    address = f"[`count`]({site_url}/cli.html#count)"
    assert links(f"The {address} is 3", "metrics.md") == "The `count` is 3"
    assert links(f"The {address} is 3", "cli.md") == "The [`count`](cli.md#count) is 3"
    assert links("as [chapter 2](02_video.html#frames) says", "cli.md") == "as [chapter 2](video.md#frames) says"


def test_chapters_keep_their_letters():
    assert [
        label(f"nbs/{name}.ipynb") for name in ("00_show", "00a_film", "03b_likeness", "10a_parallel", "18_cli")
    ] == ["0", "0a", "3b", "10a", "18"]


def test_every_exported_name_is_listed():
    page = names_page(chapters)
    for module in chapters:
        for name in exported(root / "actrep_nb" / f"{module}.py", f"{module}.md"):
            assert f"[`{name.name}`]({name.place})" in page, name
    rows = re.findall(r"^\| \[`(\w+)`\]\([^)]*\) \| (.*) \|$", page, re.M)
    assert len(rows) > 500 and [name for name, says in rows if not says.strip()] == []


def test_names_say_what_they_are_in_one_sentence(tmp_path):
    module = tmp_path / "m.py"
    module.write_text(
        '__all__ = ["T", "LIMIT", "KINDS", "A", "B", "Out", "TABLE", "Mode", "f", "g"]\n\n# %% cell\n'
        'T = TypeVar("T")\nLIMIT = 3  # tries, at most\n# what there is,\n# in order\nKINDS = (\n    "a",\n)\n'
        'A, B = "a", [1] * 30\nOut = Annotated[Path, Option(help="Where it goes. Or not.")]\n'
        'TABLE = {f"{k}": k for k in "a|b"}\nTABLE["x"] = 5\n\n# %% other\nMode = int  # type: ignore[misc]\n\n'
        'def f():\n    """A strip of 7 x 3.2 inches at 100\n    dots (Dr. GRPO, e.g. Adam). More."""\n\n'
        'class g:\n    "Kept `as is`. `x` too."\n'
    )
    assert [(n.name, n.says, n.value, n.place) for n in exported(module, "m.md")] == [
        ("LIMIT", "tries, at most", "3", "m.md"),
        ("KINDS", "what there is, in order", "('a',)", "m.md"),
        ("A", "", "'a'", "m.md"),
        ("B", "", "[1] * 30", "m.md"),
        ("Out", "Where it goes.", "", "m.md"),
        ("TABLE", "", "{f'{k}': k for k in 'a|b'}", "m.md"),
        ("Mode", "", "int", "m.md"),
        ("f", "A strip of 7 x 3.2 inches at 100 dots (Dr. GRPO, e.g. Adam).", "", "m.md#f"),
        ("g", "Kept `as is`.", "", "m.md#g"),
    ]


def test_every_command_says_its_help():
    from typer.main import get_command

    from actrep_nb.cli import every_command

    page = commands_page()
    for name in get_command(every_command()).commands:
        assert f"## actrep {name}" in page, name
    assert "Usage: actrep count" in page and "\x1b" not in page


def test_the_graph_draws_what_is_imported_and_no_way_round():
    assert nearest({"a": [], "b": ["a"], "c": ["a", "b"]}) == {"a": [], "b": ["a"], "c": ["b"]}
    page = architecture_page(chapters)
    assert all(f'<a href="{module}.html"><rect' in page for module in chapters)
    needs = {m: [n for n in imports_of(m) if n in chapters] for m in chapters}
    at, lines, row = laid_out(needs)
    assert page.count("<path d=") == len(lines)
    into = [b for _, b in lines if b[1] == row[b[0]]]  # with an arrow's head, from each lane or box
    assert page.count("marker-end") == len(into) == sum(map(len, nearest(needs).values()))
    order = list(chapters)
    assert all(order.index(n) < order.index(m) for m in order for n in imports_of(m) if n in chapters)


def test_no_line_of_the_graph_runs_behind_a_box():
    at, lines, row = laid_out({"a": [], "b": ["a"], "c": ["b"], "d": ["a", "c"], "e": ["a", "b"], "f": ["a"]})
    assert row == {"a": 0, "b": 1, "c": 2, "d": 3, "e": 2, "f": 1}
    at, lines, row = laid_out({m: [n for n in imports_of(m) if n in chapters] for m in chapters})
    lanes = {(m, r): x for (m, r), x in at.items() if row[m] != r}
    boxes = {(m, r): x for (m, r), x in at.items() if row[m] == r}
    assert lanes and set(boxes) == set(row.items()) and all(a[1] + 1 == b[1] for a, b in lines)
    for (lane, r), x in lanes.items():
        assert [m for m, here in row.items() if here == r and abs(boxes[m, r] - x) < WIDE / 2] == [], lane
    for (m, r), x in boxes.items():
        assert [n for n, here in row.items() if n != m and here == r and abs(boxes[n, r] - x) < WIDE] == [], m


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-100, 100), st.floats(0, 50)), min_size=1, max_size=8))
def test_places_are_as_near_as_may_be_to_those_wanted(row):
    from scipy.optimize import isotonic_regression

    wanted, apart = [want for want, _ in row], [gap for _, gap in row[1:]]
    shift = np.cumsum([0.0, *apart])
    assert np.allclose(spread(wanted, apart), isotonic_regression(np.array(wanted) - shift).x + shift)


def test_figures_lead_to_their_pages_and_say_what_they_show():
    words = "Four <bars>. Two are raised. More."
    page = gallery_page([Figure("grpo_0.png", "grpo.md", "GRPO", 'A "group" & more', "#a-group", words)])
    assert (
        '<a href="grpo.html#a-group"><img loading="lazy" src="images/small/grpo_0.webp" '
        'alt="Four &lt;bars&gt;. Two are raised. More."><span>A &quot;group&quot; &amp; more</span></a>'
        "<figcaption>Four &lt;bars&gt;. Two are raised.</figcaption>"
    ) in page
    assert (
        alternative("plot(x)", "## Rewards\n\nFirst. The curve [rises](x.md) with `step`:", "Rewards")
        == "Rewards: The curve rises with step:"
    )
    assert alternative("#| fig-alt: A rising curve\nplot(x)", "Text.", "Rewards") == "A rising curve"
    assert alternative("plot(x)", "", "Rewards") == "Rewards"


def test_programs_find_the_pages():
    text = llms_text(
        "actrep_nb",
        "A book.",
        iter([("GRPO", "Better answers", "grpo.md"), ("Home", "", "index.md")]),
        "https://example.org",
    )
    assert (
        text.startswith("# actrep_nb\n\n> A book.\n")
        and "- [GRPO](https://example.org/grpo.html.md): Better answers\n- [Home](https://example.org/index.html.md)\n"
        in text
    )


def test_the_looked_up_pages_are_in_the_navigation(tmp_path):
    page = Page(tmp_path / "x.ipynb", "nbs/13_grpo.ipynb", "grpo.md")
    page.title = "13 · GRPO"
    assert navigation({"nbs/13_grpo.ipynb": page}) == [
        {"III · Learn": [{"13 GRPO": "grpo.md"}]},
        {"Look up": [{title: name} for name, title in LOOK_UP.items()]},
    ]


@pytest.mark.parametrize("module", chapters)
def test_a_chapter_exports_something(module):
    assert exported(root / "actrep_nb" / f"{module}.py", f"{module}.md")
