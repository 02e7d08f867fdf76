"""The site from the notebooks, offline: nbdev's processed notebooks → Markdown → Zensical → _site/.

nbdev (`proc_nbs`) gives signatures, source links and cross-links; it executes the exported cells and imports of
chapters, never an experiment. This file turns its notebooks into Markdown that Python-Markdown reads as Jupyter would,
with formulas as MathML, and hands them to Zensical. README.md comes from nbs/index.ipynb by the same converter.
"""

import argparse
import base64
import html
import json
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import yaml
from markdown.extensions.toc import slugify
from site_check import barriers, broken_links, finished, raw_markdown
from site_pages import (
    Figure,
    alternative,
    architecture_page,
    commands_page,
    gallery_page,
    llms_text,
    module_of,
    names_page,
    notebooks_of,
    thumbnail,
)

root = Path(__file__).resolve().parents[1]
work = root / '_docs'  # Markdown and configuration, as given to Zensical
parts = {
    'I · See': '01',
    'II · Say and score': '05',
    'III · Learn': '09b',
    'IV · Judge and run': '14',
}  # the first of each
project = yaml.safe_load((root / 'mkdocs.yml').read_text())
site_url, repo_url = project['site_url'].rstrip('/'), project['repo_url'].rstrip('/')


# ---- Markdown: from what Jupyter reads to what Python-Markdown reads -----------------------------------------------


def outside_code(text: str, change: Callable[[str], str]) -> str:
    "Apply `change` to everything in `text` but fenced code and code spans."
    pieces = re.split(
        r'(^(?P<f>```+|~~~+).*?^(?P=f)[`~]*[ \t]*$|(?P<t>`+)(?!`)(?:(?!\n\n).)+?(?<!`)(?P=t)(?!`))',
        text,
        flags=re.M | re.S,
    )
    return ''.join((change(p) if i % 4 == 0 else p if i % 4 == 1 else '') for i, p in enumerate(pieces) if p)


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    "Apply `change` to everything in `text` but fenced code."
    pieces = re.split(r'(^(?P<f>```+|~~~+).*?^(?P=f)[`~]*[ \t]*$)', text, flags=re.M | re.S)
    return ''.join(change(p) if i % 3 == 0 else p if i % 3 == 1 else '' for i, p in enumerate(pieces))


def mathml(tex: str, display: str) -> str:
    "A formula as MathML on one line; one that cannot be converted is an error that shows it."
    from latex2mathml.converter import convert

    try:
        return re.sub(r'\s*\n\s*', ' ', convert(tex.strip(), display=display))
    except Exception as error:
        raise ValueError(f'formula not understood: {tex.strip()!r} ({type(error).__name__}: {error})') from error


def formulas(text: str) -> str:
    "`$…$` and `$$…$$` → MathML, by pandoc's rules for what is a formula and what is a price."

    def change(piece: str) -> str:
        piece = re.sub(
            r'(?<!\\)\$\$(.+?)\$\$',
            lambda m: f'\n\n<div class="formula">{mathml(m[1], "block")}</div>\n\n',
            piece,
            flags=re.S,
        )
        return re.sub(
            r'(?<![\\$])\$(?=\S)((?:[^$\\\n]|\\.|\n(?!\n))+?)(?<=\S)\$(?!\d)',
            lambda m: f'<span>{mathml(m[1], "inline")}</span>',
            piece,
        )  # bare <math> at the start of a line would end the paragraph

    return outside_code(text, change)


def blocks(text: str) -> str:
    "Blank lines before lists and tables, four spaces for nested lists: CommonMark needs neither, Python-Markdown both."
    result: list[str] = []
    fence, in_list, indents = '', False, [0]
    item = re.compile(r'^(\s*)(?:[-*+]|\d+[.)])\s+\S')
    for line in text.splitlines():
        mark = re.match(r'^\s*(```+|~~~+)', line)
        if fence or mark:
            if mark and not fence:
                fence = mark[1]
            elif mark and mark[1].startswith(fence) and not line.strip().strip('`~'):
                fence = ''
            result.append('    ' * (len(indents) - 1) + line.strip() if in_list and mark and line[:1] == ' ' else line)
            continue
        found = item.match(line)
        previous = result[-1] if result else ''
        if found and not line.startswith('    ' * (len(indents) + 1)):
            width = len(found[1])
            if not in_list:
                if previous.strip():
                    result.append('')
                indents = [width]
            while len(indents) > 1 and width < indents[-1]:
                indents.pop()
            if in_list and width > indents[-1] + 1:
                indents.append(width)
            in_list = True
            line = '    ' * (len(indents) - 1) + line.lstrip()
        elif in_list and line[:1] not in (' ', '') and not previous.strip():
            in_list, indents = False, [0]  # a paragraph after a blank line ends the list
        elif in_list and line.strip() and line[0] == ' ':
            line = '    ' * len(indents) + line.lstrip()  # belongs to the item above
        elif line.startswith('|') and previous.strip() and not previous.startswith('|'):
            result.append('')
        result.append(line)
    return '\n'.join(result)


def callouts(text: str, flavour: str) -> str:
    "`::: {.callout-note} …` → an admonition (a quoted note in the README)."

    def change(match: re.Match) -> str:
        kind, rest = match[1], match[3].strip()
        title = re.search(r'title="([^"]*)"', match[2])
        if heading := re.match(r'#+\s+(.*)\n', rest):
            rest = rest[heading.end() :].strip()
        name = title[1] if title else heading[1] if heading else kind.capitalize()
        if flavour == 'readme':
            return '\n'.join(f'> {line}'.rstrip() for line in (f'**{name}**', '', *rest.splitlines()))
        return f'!!! {kind} "{name}"\n\n' + '\n'.join(f'    {line}'.rstrip() for line in rest.splitlines())

    return re.sub(r'^:{3,}\s*\{\.callout-(\w+)([^}]*)\}\s*\n(.*?)^:{3,}[ \t]*$', change, text, flags=re.M | re.S)


def page_of(path: str) -> str:
    "`nbs/experiments/02_cot.ipynb` → `experiments/cot.md`: nbdev drops the number from the address."
    folder, _, name = path.removeprefix('nbs/').rpartition('/')
    return f'{folder}/'.lstrip('/') + re.sub(r'^\d+[a-z]*_', '', Path(name).stem) + '.md'


def links(text: str, page: str) -> str:
    "Links to notebooks and to our own absolute addresses → links between pages."
    up = '../' * page.count('/')

    def own(match: re.Match) -> str:
        target = re.sub(r'\.html(\.md)?$', '.md', match[1]) or 'index.md'
        return f'({up}{target}{match[2] or ""})'

    text = re.sub(
        rf'^(#+ .*?)\[(`[^`]+`)\]\({re.escape(site_url)}[^)]*\)', r'\1\2', text, flags=re.M
    )  # a heading is no link
    if page != 'cli.md':  # words of the language that are commands, too, as "count", are no links
        text = re.sub(rf'\[(`[a-z]+`)\]\({re.escape(site_url)}/cli\.html(?:\.md)?#[a-z]+\)', r'\1', text)
    text = re.sub(rf'\({re.escape(site_url)}/?([\w./-]*?)(#[^)\s]*)?\)', own, text)
    text = re.sub(
        r'\((?!https?:)(?:\.?[\w/-]*/)?\d+[a-z]*_(\w+)\.html(#[^)\s]*)?\)', lambda m: f'({m[1]}.md{m[2] or ""})', text
    )  # nbdev's address of a notebook named in a comment
    text = re.sub(r'\((?!https?:)([\w./-]+\.ipynb)(#[^)\s]*)?\)', lambda m: f'({page_of(m[1])}{m[2] or ""})', text)
    return outside_fences(text, one_link)


def one_link(text: str) -> str:
    """nbdev links names that stand in a link's text, too. There the writer's link stays; its name's own place is taken
    where the writer names just the page.
    """
    name, other = r'\[(`[^`]+`)\]\(([^)\s]*)\)', r'(?:[^\[\]`]|`[^`]+`)*'

    def change(match: re.Match) -> str:
        alone = re.fullmatch(name, match[1])
        target = alone[2] if alone and alone[2].partition('#')[0] == match[2] else match[2]
        words = re.sub(name, r'\1', match[1])
        return f'[{words}]({target})'

    return re.sub(rf'\[({other}(?:\[`[^`]+`\]\([^)\s]*\){other})+)\]\(([^)\s]+)\)', change, text)


# ---- cells ---------------------------------------------------------------------------------------------------------


def joined(value) -> str:
    "Notebooks store text as a string or as a list of lines."
    return ''.join(value) if isinstance(value, list) else value or ''


def signature(text: str) -> str:
    "nbdev's show_doc entry: an id for its heading, names as a reader would write them, `class` for classes."
    heading = re.search(r'^### (.+)$', text, re.M)
    if not heading:
        return text
    name = heading[1].replace('\\', '').strip()
    text = re.sub(r'^---\n+', '', text.lstrip())
    source = re.match(r'\[source\]\(([^)]*)\)\{[^}]*\}\s*', text)
    text = text[source.end() :] if source else text
    link = f'\n\n[source]({source[1]}){{ .api-source }}' if source else ''
    text = re.sub(
        rf'({re.escape(heading[0])}\n+(?:```python\n[\s\S]*?\n```\n+)?)\*(.+)\*((?:\n.*\S.*)*)',
        lambda m: f'{m[1]}{m[2]}{" ".join(m[3].splitlines())}\n{{ .says }}',
        text,
        count=1,
    )  # its first paragraph: nbdev puts stars round the first line only
    text = text.replace(heading[0], f'### {heading[1]} {{ #{name.lower()} .api }}{link}', 1)
    text = re.sub(r'\b(?:__main__|collections\.abc|typing|pathlib(?:\._\w+)?|actrep_nb\.\w+)\.(?=\w)', '', text)
    if '.' not in name and name[:1].isupper():
        text = re.sub(r'^def (\w+)\((.*?)\)(?:->None)?:', r'class \1(\2)', text, count=1, flags=re.M | re.S)
    text = re.sub(
        r'\x08\s*\n((?:.*\S.*(?:\n|$))+)', lambda m: fenced(textwrap.dedent(m[1]).rstrip(), 'text') + '\n', text
    )  # click: keep these lines
    return re.sub(r'^class (\w+)\(\s*\*args, \*\*kwargs\s*\)$', r'class \1', text, flags=re.M)


def last_writes(text: str) -> str:
    "What a terminal would show: a carriage return overwrites its line; colours dropped."
    text = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)
    return '\n'.join(line.rstrip('\r').rsplit('\r', 1)[-1].rstrip() for line in text.split('\n')).strip('\n')


def boxed(content: str) -> str:
    return f'<div class="cell-output" markdown>\n\n{content}\n\n</div>'


def fenced(text: str, language: str) -> str:
    ticks = '`' * max(3, 1 + max(map(len, re.findall(r'`+', text)), default=0))
    return f'{ticks}{language}\n{text}\n{ticks}'


def without_scripts(fragment: str) -> str:
    "HTML output for a page: pandas' scoped styles go, as they would colour the whole page."
    return re.sub(r'<style scoped>.*?</style>', '', fragment, flags=re.S).strip()


class Page:
    "One notebook on its way to Markdown; collects the images its outputs hold."

    def __init__(self, notebook: Path, source: str, page: str):
        self.notebook, self.source, self.page = notebook, source, page
        self.images: dict[str, bytes] = {}
        self.figures: list[Figure] = []
        self.title = self.lede = self.heading = self.before = self.drawn_by = ''

    def output(self, out: dict) -> str:
        "One output, in the richest form a page can show; glue and other private MIME types fall back to their text."
        if out['output_type'] == 'stream':
            text = last_writes(joined(out['text']))
            return boxed(fenced(text, 'text')) if text.strip() else ''
        if out['output_type'] == 'error':
            return boxed(
                fenced(last_writes('\n'.join(out.get('traceback') or [f"{out['ename']}: {out['evalue']}"])), 'text')
            )
        data = out.get('data', {})
        if 'text/markdown' in data:
            return boxed(self.markdown(joined(data['text/markdown'])))
        if 'text/html' in data:
            return f'<div class="cell-output">\n{without_scripts(joined(data["text/html"]))}\n</div>'
        for mime, suffix in (
            ('image/svg+xml', 'svg'),
            ('image/png', 'png'),
            ('image/jpeg', 'jpg'),
            ('image/webp', 'webp'),
            ('image/gif', 'gif'),
        ):
            if mime in data:
                name = f'{Path(self.page).stem}_{len(self.images)}.{suffix}'
                body = joined(data[mime])
                self.images[name] = body.encode() if suffix == 'svg' else base64.b64decode(body)
                heading = self.heading or self.title
                words = alternative(self.drawn_by, self.before, heading)
                anchor = f'#{slugify(self.heading, "-")}' if self.heading else ''
                self.figures.append(Figure(name, self.page, self.title, heading, anchor, words))
                return boxed(f'![{words}](images/pages/{name})')
        if 'text/latex' in data:
            return boxed(formulas(joined(data['text/latex'])))
        text = last_writes(joined(data.get('text/plain')))
        return boxed(fenced(text, 'text')) if text.strip() else ''

    def markdown(self, text: str) -> str:
        return blocks(formulas(callouts(links(text, self.page), 'site')))

    def code(self, cell: dict) -> str:
        source = self.drawn_by = joined(cell['source'])
        directives = dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source, re.M))
        source = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip()
        outputs = cell.get('outputs', [])
        if directives.get('output') == 'asis':  # show_doc
            shown = [
                signature(links(joined(o.get('data', {}).get('text/markdown') or o.get('text')), self.page))
                for o in outputs
            ]
        elif directives.get('output') == 'false':
            shown = []
        else:
            shown = [self.output(o) for o in merged(outputs)]
        code = [] if directives.get('echo') == 'false' or not source else [fenced(source, 'python')]
        return '\n\n'.join(s for s in code + shown if s)

    def convert(self) -> str:
        cells = json.loads(self.notebook.read_text(encoding='utf-8'))['cells']
        body = []
        for cell in cells:
            text = joined(cell['source'])
            if cell['cell_type'] == 'raw':
                front = yaml.safe_load(text.strip().strip('-')) if text.startswith('---') else {}
                self.title, self.lede = front.get('title', self.title), front.get('description', self.lede)
            elif cell['cell_type'] == 'markdown':
                text = re.sub(r'^#\|.*\n', '', text, flags=re.M)
                text = re.sub(r'<!-- WARNING: THIS FILE WAS AUTOGENERATED.*?-->', '', text)
                if not self.title and (title := re.match(r'# (.+)\n*(?:>\s*(.+))?', text.strip())):
                    self.title, self.lede = title[1], title[2] or ''
                    text = text.strip()[title.end() :]
                if heading := re.findall(r'^#{2,}\s+(.+)$', text, re.M):
                    self.heading = re.sub(r'\[([^\]]*)\]\([^)]*\)|[`*]', r'\1', heading[-1])
                self.before = text
                body.append(self.markdown(text))
            elif cell['cell_type'] == 'code':
                body.append(self.code(cell))
        head = [f'# {self.title or Path(self.page).stem}']
        if self.lede:
            head.append(f'{formulas(links(self.lede, self.page))}\n{{ .lede }}')
        if self.page != 'index.md':
            head.append(
                f'This page is the notebook [{self.source}]({repo_url}/blob/main/{self.source}): [download '
                f'it]({"../" * self.page.count("/")}{self.source}) and open it in JupyterLab.\n{{ .page-source }}'
            )
        text = '\n\n'.join(s for s in head + body if s.strip()) + '\n'
        return text.replace('](images/pages/', f']({"../" * self.page.count("/")}images/pages/')


def merged(outputs: list[dict]) -> list[dict]:
    "Consecutive pieces of one stream are one output."
    result: list[dict] = []
    for out in outputs:
        if result and out['output_type'] == 'stream' == result[-1]['output_type'] and out['name'] == result[-1]['name']:
            result[-1] = {**result[-1], 'text': joined(result[-1]['text']) + joined(out['text'])}
        else:
            result.append(out)
    return result


# ---- README --------------------------------------------------------------------------------------------------------


def readme() -> str:
    "README.md: the cells of nbs/index.ipynb, with links that work beside it. Nothing is executed."
    pieces = []
    for cell in json.loads((root / 'nbs/index.ipynb').read_text(encoding='utf-8'))['cells']:
        text = joined(cell['source'])
        if cell['cell_type'] == 'markdown':
            text = callouts(text, 'readme')
            text = re.sub(r'\]\((?!\w+:|#|/)(\.\./)?([^)\s]+)\)', lambda m: f']({"" if m[1] else "nbs/"}{m[2]})', text)
            pieces.append(text.strip())
        elif cell['cell_type'] == 'code' and not re.search(r'^#\|\s*(hide|default_exp)', text, re.M):
            pieces.append(fenced(re.sub(r'^#\|.*\n?', '', text, flags=re.M).strip(), 'python'))
            for out in merged(cell.get('outputs', [])):
                shown = last_writes(joined(out.get('text') or out.get('data', {}).get('text/plain')))
                if markdown := out.get('data', {}).get('text/markdown'):
                    pieces.append(joined(markdown).strip())
                elif shown.strip():
                    pieces.append(fenced(shown, 'text'))
    return '<!-- Written by `make readme` from nbs/index.ipynb. -->\n\n' + '\n\n'.join(pieces) + '\n'


def write_readme(check: bool) -> int:
    "Write README.md, or say whether it is up to date."
    path, text = root / 'README.md', readme()
    if not check:
        path.write_text(text, encoding='utf-8')
        return 0
    if path.exists() and path.read_text(encoding='utf-8') == text:
        return 0
    print('README.md is not what nbs/index.ipynb says: run `make readme`', file=sys.stderr)
    return 1


# ---- the site ------------------------------------------------------------------------------------------------------


def number(path: str) -> int:
    return int(re.match(r'\d+', Path(path).name)[0])  # type: ignore[index]


def label(path: str) -> str:
    "A chapter's number with its letter, as in 10a."
    return re.match(r'0*(\d+[a-z]*)', Path(path).name)[1]  # type: ignore[index]


def navigation(pages: dict[str, Page]) -> list:
    "Home, looking, the four parts, then the experiments and tutorials that there are."

    def entry(source: str, numbered: bool = True) -> dict:
        page = pages[source]
        bare = re.sub(r'^\d+\s*[·.:-]\s*', '', page.title)
        return {(f'{label(source)} {bare}' if numbered else page.title): page.page}

    chapters = sorted((s for s in pages if re.fullmatch(r'nbs/\d+[a-z]*_\w+\.ipynb', s)), key=lambda s: Path(s).name)
    nav: list = [{'Home': 'index.md'}] if 'nbs/index.ipynb' in pages else []
    nav += [entry(s) for s in chapters if number(s) == 0]
    part_of = {s: [part for part, first in parts.items() if first <= Path(s).name][-1] for s in chapters if number(s)}
    nav += [{part: inside} for part in parts if (inside := [entry(s) for s, p in part_of.items() if p == part])]
    for folder in ('experiments', 'tutorials'):
        if inside := [entry(s, folder == 'experiments') for s in sorted(pages) if s.startswith(f'nbs/{folder}/')]:
            nav.append({folder.capitalize(): inside})
    notebooks = [entry(s, False) for s in ('nbs/glossary.ipynb', 'nbs/papers.ipynb') if s in pages]
    return [*nav, {'Look up': [*notebooks, *({title: page} for page, title in LOOK_UP.items())]}]


LOOK_UP = {
    'commands.md': 'Commands',
    'names.md': 'All names',
    'figures.md': 'All figures',
    'architecture.md': 'How the chapters hang together',
}


def write_look_up(target: Path, pages: dict[str, Page]) -> None:
    "The pages that no notebook holds, and llms.txt."
    chapters = {
        module: page.page
        for source, page in pages.items()
        if re.fullmatch(r'nbs/\d+[a-z]*_\w+\.ipynb', source) and (module := module_of(root / source))
    }
    made = {
        'commands.md': commands_page(),
        'names.md': names_page(chapters),
        'figures.md': gallery_page([f for page in pages.values() for f in page.figures]),
        'architecture.md': architecture_page(chapters),
    }
    for name, text in made.items():
        (target / name).write_text(text, encoding='utf-8')
    listed = ((page.title, links(page.lede, page.page), page.page) for page in pages.values())
    (target / 'llms.txt').write_text(
        llms_text(project['site_name'], project['site_description'], listed, site_url), encoding='utf-8'
    )
    for name, path in notebooks_of(root / 'nbs').items():
        (target / 'nbs' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / 'nbs' / name)


def write_pages(processed: Path) -> dict[str, Page]:
    "Markdown and images under _docs/pages, one page for each processed notebook."
    target = work / 'pages'
    shutil.rmtree(work, ignore_errors=True)
    (target / 'images/pages').mkdir(parents=True)
    (target / 'images/small').mkdir()
    pages = {}
    for notebook in sorted(processed.rglob('*.ipynb')):
        source = f'nbs/{notebook.relative_to(processed).as_posix()}'
        page = Page(notebook, source, page_of(source))
        try:
            text = page.convert()
        except Exception as error:
            raise SystemExit(f'{source}: {type(error).__name__}: {error}') from error
        path = target / page.page
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding='utf-8')
        for figure in page.figures:
            body = page.images[figure.file]
            (target / 'images/pages' / figure.file).write_bytes(body)
            (target / 'images/small' / figure.small).write_bytes(
                body if figure.small == figure.file else thumbnail(body)
            )
        pages[source] = page
    write_look_up(target, pages)
    mend_anchors(target)
    if (root / 'nbs/images').exists():
        shutil.copytree(root / 'nbs/images', target / 'images', dirs_exist_ok=True)
    shutil.copytree(root / 'tools/site', target, dirs_exist_ok=True)
    return pages


def mend_anchors(target: Path) -> None:
    """nbdev links every exported name; names without an entry of their own (methods, hidden ones) lead to their class
    or page.
    """
    texts = {path: path.read_text(encoding='utf-8') for path in target.rglob('*.md')}
    ids = {path: set(re.findall(r'\{ #([^ }]+)', text)) for path, text in texts.items()}
    for path, text in texts.items():

        def change(match: re.Match, path=path) -> str:
            there = ids.get((path.parent / match[2]).resolve() if match[2] else path, set())
            name = match[3].lower()
            anchor = next((f'#{a}' for a in (name, name.rpartition('.')[0]) if a in there), '')
            return f'[`{match[1]}`]({match[2]}{anchor})' if anchor or match[2] else f'`{match[1]}`'

        path.write_text(
            outside_fences(text, lambda t: re.sub(r'\[`([^`]+)`\]\(([\w./-]*\.md)?#([\w.]+)\)', change, t)),
            encoding='utf-8',
        )


def fetched_from_elsewhere(site: Path) -> list[str]:
    "What a page would have to load over the network: there must be nothing."
    loads = re.compile(
        r'<(?:script|img|iframe|source|video)\b[^>]*?\bsrc="?(https?:)?//[^" >]+'
        r'|<link\b(?![^>]*rel="?(?:canonical|prev|next|alternate))[^>]*?\bhref="?(https?:)?//[^" >]+'
    )
    return sorted(
        {
            f'{path.relative_to(site)}: {html.unescape(m[0])[:120]}'
            for path in site.rglob('*.html')
            for m in loads.finditer(path.read_text(encoding='utf-8'))
        }
    )


def finish(site: Path) -> None:
    """Pages as they are published.

    The `offline` plugin names its search shim by a web address; the same file is kept in tools/site.
    """
    for path in site.rglob('*.html'):
        up = '../' * (len(path.relative_to(site).parts) - 1)
        text = finished(path.read_text(encoding='utf-8'))
        path.write_text(
            re.sub(r'https://unpkg\.com/iframe-worker(?:@[\w.]+)?/shim', f'{up}iframe-worker.js', text),
            encoding='utf-8',
        )


def build(out: Path, strict: bool, force: bool) -> int:
    "Notebooks → Markdown → site in `out`."
    import doc_filter
    from nbdev import serve

    serve.FilterDefaults = doc_filter.ExportsOnly
    try:
        processed = serve.proc_nbs(n_workers=2, force=force)
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    pages = write_pages(processed)
    config = {**project, 'nav': navigation(pages), 'docs_dir': 'pages', 'site_dir': 'site'}
    (work / 'mkdocs.yml').write_text(yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    zensical = Path(sys.executable).parent / 'zensical'
    done = subprocess.run(
        [zensical, 'build', '--clean', '--config-file', 'mkdocs.yml', *(['--strict'] if strict else [])],
        cwd=work,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    plain = re.sub(r'\x1b\[[0-9;]*m', '', done.stdout)
    warnings = re.findall(r'^(?:Warning|Error): (.+)\n\s*╭─\[ (.+?) \]', plain, re.M)
    print(*[f'{place}: {message}' for message, place in warnings] or ['no broken links'], sep='\n', file=sys.stderr)
    if done.returncode:
        print(plain if not warnings else 'a broken link is an error with --strict', file=sys.stderr)
        return done.returncode
    site = work / 'site'
    finish(site)
    for path in (work / 'pages').rglob('*.md'):  # the address that nbdev's modules name
        shutil.copy2(path, site / path.relative_to(work / 'pages').with_suffix('.html.md'))
    wrong = False
    for what, found in (
        ('links that lead nowhere', broken_links(site)),
        ('Markdown that a reader sees as it was typed', raw_markdown(site)),
        ('not for everyone', barriers(site)),
    ):
        if found:
            wrong = True
            print(f'{what}:', *found, sep='\n  ', file=sys.stderr)
    if strict and wrong:
        return 1
    if elsewhere := fetched_from_elsewhere(site):
        print('pages must not load anything over the network:', *elsewhere, sep='\n  ', file=sys.stderr)
        return 1
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(site, out)
    print(f'{len(pages)} pages in {out}: open {out / "index.html"}')
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--out', type=Path, default=root / '_site', help='where the site goes (default: _site)')
    parser.add_argument('--strict', action='store_true', help='a broken link is an error')
    parser.add_argument('--force', action='store_true', help='process notebooks that did not change, too')
    parser.add_argument('--readme', action='store_true', help='write README.md instead')
    parser.add_argument('--check', action='store_true', help='with --readme: only say whether it is up to date')
    args = parser.parse_args()
    return write_readme(args.check) if args.readme else build(args.out, args.strict, args.force)


if __name__ == '__main__':
    raise SystemExit(main())
