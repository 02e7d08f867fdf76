"""The converter of tools/build_docs.py: what Jupyter reads must be what Python-Markdown shows."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown import markdown
from markdown_it import MarkdownIt

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from build_docs import blocks, callouts, formulas, last_writes, links, page_of, signature  # noqa: E402


class Outline(HTMLParser):
    """Words of a page, each with the lists, items and tables it stands in.

    Paragraphs do not count: a loose list is a list.
    """

    def __init__(self, html: str):
        super().__init__()
        self.stack: list[str] = []
        self.words: list[tuple[str, ...]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ("ul", "ol", "li", "table", "td", "th", "pre"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        if self.stack and self.stack[-1] == tag:
            self.stack.pop()

    def handle_data(self, data):
        self.words += [(*self.stack, word) for word in data.split()]


def same(text: str) -> None:
    "Python-Markdown after `blocks` shows the structure that CommonMark, an independent implementation, reads."
    ours = markdown(blocks(text), extensions=["tables", "sane_lists", "fenced_code"])
    theirs = MarkdownIt("commonmark").enable("table").render(text)
    assert Outline(ours).words == Outline(theirs).words, ours


@pytest.mark.parametrize(
    "text",
    [
        "before\n* one\n* two\n\nafter",
        "before:\n- one\n  - inner\n  - inner two\n- two\n\nafter",
        "1. one\n2. two\n   more of two\n\nafter",
        "* one\n  continued\n* two",
        "text\n\n- a\n- b\n\nparagraph\n\n- c",
        "| a | b |\n|---|---|\n| 1 | 2 |",
        "- a\n  - b\n    - c\n- d",
        "```\n* not a list\n```\n\n* a list",
        "2 - 1 is\n1",
        "- **bold**: text\n  that goes on\n  - inner\n- last",
    ],
)
def test_lists_and_tables_as_in_jupyter(text):
    same(text)


@given(
    st.recursive(
        st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3),
        lambda inner: st.lists(
            st.one_of(st.text("abc", min_size=1, max_size=4), st.tuples(st.text("xyz", min_size=1, max_size=4), inner)),
            min_size=1,
            max_size=3,
        ),
        max_leaves=8,
    )
)
@settings(max_examples=150, deadline=None)
def test_any_nested_list(tree):
    def lines(items, depth=0):
        for item in items:
            word, inner = item if isinstance(item, tuple) else (item, [])
            yield "  " * depth + f"- {word}"
            yield from lines(inner, depth + 1)

    same("before\n\n" + "\n".join(lines(tree)) + "\n\nafter")


def test_a_formula_at_the_start_of_a_line_stays_in_its_paragraph():
    assert markdown(formulas("the height is\n$u(t)$ where\n$t$ is time")).count("<p>") == 1


def test_formulas_become_mathml_and_prices_and_code_do_not():
    shown = formulas("with $a_i^2$ and `$x$` for $5 or $6\n\n```\n$y$\n```\n\n$$\\frac{1}{n}\\sum_i x_i$$")
    assert shown.count("<math") == 2 and "`$x$`" in shown and "\n$y$\n" in shown and "$5 or $6" in shown
    assert "<mfrac>" in shown and 'display="block"' in shown


def test_an_unreadable_formula_is_an_error_that_shows_it():
    with pytest.raises(ValueError, match=re.escape(r"'\\left( x'")):
        formulas(r"$\left( x$")


@pytest.mark.parametrize(
    "source, page",
    [
        ("nbs/01_records.ipynb", "records.md"),
        ("nbs/experiments/02_cot.ipynb", "experiments/cot.md"),
        ("nbs/index.ipynb", "index.md"),
        ("12a_rollout_more.ipynb", "rollout_more.md"),
    ],
)
def test_addresses(source, page):
    assert page_of(source) == page


def test_links_lead_to_pages():
    text = (
        "[a](02_video.ipynb#times) [b](https://actrep.github.io/actrep_nb/records.html#clip) "
        "[c](https://example.org/x.ipynb)"
    )
    assert links(text, "show.md") == "[a](video.md#times) [b](records.md#clip) [c](https://example.org/x.ipynb)"
    assert links(text, "experiments/cot.md").split()[1] == "[b](../records.md#clip)"


def test_a_terminal_overwrites_its_line():
    assert last_writes("1/3\r2/3\r\x1b[32m3/3\x1b[0m\ndone\r\n") == "3/3\ndone"


def test_callouts_for_site_and_readme():
    text = '::: {.callout-note title="Why"}\nBecause.\n:::'
    assert callouts(text, "site") == '!!! note "Why"\n\n    Because.'
    assert callouts(text, "readme") == "> **Why**\n>\n> Because."


def test_signatures_read_as_written():
    entry = (
        '---\n\n[source](https://github.com/o/r/a.py#L1){target="_blank" style="float:right"}\n\n### '
        'Clip\n\n```python\ndef Clip(\n    video:__main__.Path, n:typing.Any=None\n)->None:\n```\n\n*A clip.*'
    )
    shown = signature(entry)
    assert (
        "### Clip { #clip .api }" in shown
        and "class Clip(\n    video:Path, n:Any=None\n)" in shown
        and "{ .api-source }" in shown
    )
    assert "target=" not in shown


def test_all_of_a_first_paragraph_says_what_an_entry_is():
    "nbdev puts stars round the first line only; stars in the text would end them early."
    says = "*The `text` without the key, a * b,*\nwithout [`parts`](api.md#parts) of it.\n\nMore.\n\n*Not this.*\nNor this."
    for code in ("", "```python\ndef scrub(\n    *text:str\n)->str:\n```\n\n"):
        shown = signature(f"---\n\n### scrub\n\n{code}{says}")
        (first,) = re.findall(r'<p class="says">(.*?)</p>', markdown(shown, extensions=["attr_list", "fenced_code"]))
        assert first.startswith("The <code>text</code> without the key, a * b, without <a") and first.endswith("of it.")
        assert shown.endswith("\n{ .says }\n\nMore.\n\n*Not this.*\nNor this.")


def test_examples_of_a_command_keep_their_lines():
    shown = signature("### count\n\n*Count.*\n\n\x08\nExamples:\n  actrep count a.mp4\n  actrep count b.mp4\n\nMore.")
    assert "```text\nExamples:\n  actrep count a.mp4\n  actrep count b.mp4\n```\n\nMore." in shown
