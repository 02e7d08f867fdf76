"""What a page needs after it was built, so that everyone can read it and nothing is fetched; and checks that all links
lead somewhere and that nobody is kept out.
"""

import html
import re
from html.parser import HTMLParser
from pathlib import Path

NUMBER = re.compile(
    r'[-+−]?[\d.,]*\d(?:[eE][-+]?\d+)?\s*(?:%|s|ms|MB|GB|x|×)?|[-+−]?(?:nan|inf)|NaN|None|—|-|\*|\[.*\]|', re.I
)


class Links(HTMLParser):
    "Links and anchors of a page."

    def __init__(self, text: str):
        super().__init__()
        self.links: set[str] = set()
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ('href', 'src') and value:
                self.links.add(value)
            elif name == 'id' and value:
                self.ids.add(value)


def broken_links(site: Path) -> list[str]:
    """Links between pages that lead to no file, or to no place in it. 404.html is left out: its links hold on the host
    only.
    """
    found = {path.resolve(): Links(path.read_text(encoding='utf-8')) for path in sorted(site.rglob('*.html'))}
    broken = []
    for path, page in found.items():
        if path.name == '404.html':
            continue
        for link in sorted(page.links):
            if re.match(r'[a-z][a-z0-9+.-]*:|//|#__', link, re.I):
                continue
            file, _, anchor = link.partition('#')
            there = (path.parent / file).resolve() if file else path
            there = there / 'index.html' if there.is_dir() else there
            if not there.exists() or anchor and there in found and anchor not in found[there].ids:
                broken.append(f'{path.relative_to(site.resolve())}: {link}')
    return broken


class Words(HTMLParser):
    "What a reader sees of a page outside code, without its links."

    def __init__(self, text: str):
        super().__init__()
        self.closed = 0  # elements that are open and hold code, or nothing to see
        self.words = ''
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.closed += tag in ('code', 'pre', 'script', 'style', 'title', 'textarea')

    def handle_endtag(self, tag):
        self.closed -= tag in ('code', 'pre', 'script', 'style', 'title', 'textarea')

    def handle_data(self, data):
        self.words += '' if self.closed else data


def raw_markdown(site: Path) -> list[str]:
    "Links that stand on a page as they were typed, by page: `](` outside code."
    return [
        f'{path.relative_to(site)}: {" ".join(found.split())}'
        for path in sorted(site.rglob('*.html'))
        for found in re.findall(r'.{0,40}\]\(.{0,40}', Words(path.read_text(encoding='utf-8')).words, re.S)
    ]


class Barriers(HTMLParser):
    "What keeps somebody out of a page: pictures without words, headers without words, what scrolls by mouse alone."

    def __init__(self, text: str):
        super().__init__()
        self.found: list[str] = []
        self.header: str | None = None  # words of the header that is open
        self.links = 0  # that are open: a picture in one is named by the link's words
        self.feed(text)
        if '/reach.js"' not in text and '"reach.js"' not in text:
            self.found.append('code that scrolls is out of reach of the keyboard: reach.js is missing')

    def handle_starttag(self, tag, attrs):
        has, where = dict(attrs), self.getpos()[0]
        self.links += tag == 'a'
        if tag == 'img' and not (has.get('alt') or 'alt' in has and self.links):
            self.found.append(f'line {where}: a picture without words: {has.get("src")}')
        if tag in ('table', 'div') and {'dataframe', 'formula'} & {*(has.get('class') or '').split()}:
            if has.get('tabindex') != '0':
                self.found.append(f'line {where}: a {tag} that scrolls is out of reach of the keyboard')
        if tag == 'th':
            self.header = ''

    def handle_data(self, data):
        if self.header is not None:
            self.header += data

    def handle_endtag(self, tag):
        self.links -= tag == 'a'
        if tag == 'th':
            if not (self.header or '').strip():
                self.found.append(f'line {self.getpos()[0]}: a header without words')
            self.header = None


def barriers(site: Path) -> list[str]:
    "What keeps somebody out of a page, by page. A browser finds more, contrast for example."
    return [
        f'{path.relative_to(site)}, {found}'
        for path in sorted(site.rglob('*.html'))
        for found in Barriers(path.read_text(encoding='utf-8')).found
    ]


LONG = 30  # lines of an output that are shown without scrolling


def scrolling(output: re.Match) -> str:
    "A long output scrolls, and the keyboard reaches it."
    return (
        output[1]
        + (' class="long" tabindex="0" aria-label="output"' if output[3].count('\n') > LONG else '')
        + output[2]
        + output[3]
        + output[4]
    )


def finished(page: str) -> str:
    "A page as it is published."
    page = page.replace(
        ' data-md-component="source"', ''
    )  # its script asks the host of the repository for stars and releases
    page = page.replace('<table border="1" class="dataframe">', '<table class="dataframe" tabindex="0">').replace(
        '<div class="formula">', '<div class="formula" tabindex="0">'
    )  # they scroll where the screen is narrow
    page = re.sub(r'<th([^>]*)>\s*</th>', r'<td\1></td>', page)  # a header without words is none
    page = re.sub(
        r'(<div class="cell-output">\s*<div class="[^"]*highlight[^"]*"><pre)'
        r'(><span></span><code>)(.*?)(</code></pre>)',
        scrolling,
        page,
        flags=re.S,
    )
    return re.sub(
        r'<td>([^<]*)</td>',
        lambda m: m[0] if NUMBER.fullmatch(html.unescape(m[1]).strip()) else f'<td class="words">{m[1]}</td>',
        page,
    )
