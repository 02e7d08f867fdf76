"""Pages of the site that no notebook holds, made from the code and from the other pages: names, commands, chapter
graph, figures, and llms.txt.
"""

import ast
import html
import io
import json
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

root = Path(__file__).resolve().parents[1]


# ---- names ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Name:
    "Something a chapter exports."

    name: str
    says: str  # the first sentence of its docstring, or its comment
    place: str  # page and anchor
    value: str = ''  # of a constant that says nothing about itself, as written


def first_sentence(text: str) -> str:
    "The first sentence of a text, on one line. A dot ends one where a capital, a quoted or a coded word follows it."
    line = ' '.join(text.split('\n\n')[0].split())
    ends = re.compile(r'(?<!\b[a-z]\.[a-z])(?<!\b(?:cf|eq|vs|al|Dr|no|pp))[.!?][)"\'`]*(?=\s+["\'`(]?[A-Z`])')
    end = ends.search(line)
    return line[: end.end()] if end else line


def remarks(source: str) -> dict[int, str]:
    "Comments by line: one that ends a line under its number, lines of comment under that of the line they lead to."
    found: dict[int, str] = {}
    above: list[str] = []
    lines = io.StringIO(source).readline
    for token in tokenize.generate_tokens(lines):
        text = token.string.lstrip('# ').strip()
        if token.type == tokenize.COMMENT and token.string.startswith('# %%'):
            above = []
        elif token.type == tokenize.COMMENT and re.match('# *(type:|noqa)', token.string):
            continue
        elif token.type == tokenize.COMMENT and token.line.lstrip().startswith('#'):
            above.append(text)
        elif token.type == tokenize.COMMENT:
            found[token.start[0]] = text
        elif token.type == tokenize.NL and not token.line.strip():
            above = []
        elif token.type not in (tokenize.NL, tokenize.NEWLINE) and above:
            found[token.start[0]], above = ' '.join(above), []
    return found


def constant(node: ast.Assign | ast.AnnAssign, value: ast.expr, comments: dict[int, str]) -> tuple[str, str]:
    """What a constant says about itself, and its value. A long value stands for a constant that says nothing. An option
    of the command line says what it is for.
    """
    helps = [k.value for k in ast.walk(node) if isinstance(k, ast.keyword) and k.arg == 'help']
    said = comments.get(node.lineno) or comments.get(node.end_lineno or 0)
    if not said and (said := next((first_sentence(h.value) for h in helps if isinstance(h, ast.Constant)), '')):
        return said, ''
    shown = ast.unparse(value)
    if said:
        return said, shown if len(shown) <= 20 else ''
    return '', shown if len(shown) <= 60 else f'{shown[:60].rpartition(" ")[0] or shown[:60]} …'


def assigned(node: ast.Assign | ast.AnnAssign) -> Iterator[tuple[str, ast.expr]]:
    "Names that a statement gives a value, each with its own."
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        if isinstance(target, ast.Name) and node.value:
            yield target.id, node.value
        elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from ((t.id, v) for t, v in zip(target.elts, node.value.elts) if isinstance(t, ast.Name))
        elif isinstance(target, ast.Tuple) and node.value:
            yield from ((t.id, node.value) for t in target.elts if isinstance(t, ast.Name))


def exported(module: Path, page: str) -> list[Name]:
    """What `__all__` of a module names, in its order: functions, classes and constants of its own. Type variables are
    left out, as nobody imports them.
    """
    source = module.read_text(encoding='utf-8')
    comments = remarks(source)
    found: dict[str, Name] = {}
    listed: list[str] = []
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            says = first_sentence(ast.get_docstring(node) or '')
            found[node.name] = Name(node.name, says, f'{page}#{node.name.lower()}')
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for name, value in assigned(node):
                if name == '__all__':
                    listed = ast.literal_eval(value)
                elif name not in found and not ast.unparse(value).startswith('TypeVar('):
                    says, shown = constant(node, value, comments)
                    found[name] = Name(name, says, page, shown)
    return [found[name] for name in listed if name in found]


def escaped(text: str) -> str:
    "Text for a cell of a table: not HTML, not the end of the cell."
    return html.escape(text, quote=False).replace('|', '&#124;')


def names_page(chapters: dict[str, str]) -> str:
    "All exported names by chapter. `chapters`: module → page."
    out = [
        '---\nsearch:\n  exclude: true\n---\n\n# All names',
        'What each chapter exports, in its order, with the first sentence of what it says about itself, or its value.\n'
        '{ .lede }',
    ]
    for module, page in chapters.items():
        if found := exported(root / 'actrep_nb' / f'{module}.py', page):
            rows = (
                f'| [`{n.name}`]({n.place}) | {f"`` {n.value} `` " if n.value else ""}{escaped(n.says)} |'
                for n in found
            )
            table = '| name | what it is |\n|---|---|\n' + '\n'.join(rows)
            out.append(f'## {module}\n\n<div class="names" markdown>\n\n{table}\n\n</div>')
    return '\n\n'.join(out) + '\n'


# ---- commands -----------------------------------------------------------------------------------------------------


def commands_page() -> str:
    "What each command says to --help."
    import typer

    from actrep_nb.cli import every_command

    def help_of(command, name: str) -> str:
        context = typer.Context(command, info_name=name, terminal_width=100, max_content_width=100)
        return re.sub(r'\x1b\[[0-9;]*m', '', command.get_help(context))

    out = ['# Commands', 'What `actrep` can be told, as each command says it to `--help`.\n{ .lede }']

    def add(command, name: str) -> None:
        for key, inner in getattr(command, 'commands', {}).items():
            if inner.hidden:
                continue
            if getattr(inner, 'commands', None):
                add(inner, f'{name} {key}')
            else:
                out.append(f'## {name} {key}\n\n```text\n{help_of(inner, f"{name} {key}").strip()}\n```')

    add(typer.main.get_command(every_command()), 'actrep')
    return '\n\n'.join(out) + '\n'


# ---- the chapter graph ---------------------------------------------------------------------------------------------


def imports_of(module: str) -> list[str]:
    "Modules of the package that a module imports."
    tree = ast.parse((root / 'actrep_nb' / f'{module}.py').read_text(encoding='utf-8'))
    found = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level and node.module}
    found |= {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level and not node.module
        for alias in node.names
    }
    found |= {
        node.module.removeprefix('actrep_nb.')
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('actrep_nb.')
    }
    return sorted(found - {module})


def nearest(needs: dict[str, list[str]]) -> dict[str, list[str]]:
    "Only arrows that no longer way implies: what a chapter needs, but for what it gets through another one."

    def reach(module: str) -> set[str]:
        return {m for n in needs.get(module, []) for m in (n, *reach(n))}

    return {m: [n for n in ns if not any(n in reach(other) for other in ns if other != n)] for m, ns in needs.items()}


WIDE, HIGH, GAP, LANE = 104, 30, 62, 16  # of a box, from row to row, and of a line that passes a row


def spread(wanted: list[float], apart: list[float]) -> list[float]:
    """Places in this order, as near to the wanted ones as may be (least squares), each at least `apart` from the one
    before. `apart` has a value less. Pool adjacent violators.
    """
    shift = [sum(apart[:i]) for i in range(len(wanted))]
    pools: list[list[float]] = []  # sum and size
    for want, moved in zip(wanted, shift):
        pools.append([want - moved, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, size = pools.pop()
            pools[-1] = [pools[-1][0] + total, pools[-1][1] + size]
    level = [total / size for total, size in pools for _ in range(int(size))]
    return [x + moved for x, moved in zip(level, shift)]


def laid_out(
    needs: dict[str, list[str]],  # what each chapter needs, in the order of the book
) -> tuple[dict[tuple[str, int], float], list[tuple[tuple[str, int], tuple[str, int]]], dict[str, int]]:
    """Where boxes and lines go, in layers (Sugiyama's way): the middle of each place, the lines from place to place,
    and the row of each chapter.

    A chapter stands as far down as the longest way to it. What it gives to lower rows goes down in one lane, which has
    a place of its own, (chapter, row), in each row that it passes: so no line runs behind a box.
    """
    row: dict[str, int] = {}
    for m in needs:
        row[m] = 1 + max((row[n] for n in needs[m]), default=-1)
    lines = dict.fromkeys(
        ((n, r), (n, r + 1) if r + 1 < row[m] else (m, r + 1))
        for m, above in nearest(needs).items()
        for n in above
        for r in range(row[n], row[m])
    )
    places = dict.fromkeys([*((m, row[m]) for m in needs), *(place for line in lines for place in line)])
    rows = [[p for p in places if p[1] == r] for r in range(max(row.values()) + 1)]
    near: dict[tuple[str, int], list[tuple[str, int]]] = {p: [] for p in places}
    for a, b in lines:
        near[a].append(b)
        near[b].append(a)

    def half(place: tuple[str, int]) -> float:
        return (WIDE + 12 if row[place[0]] == place[1] else LANE) / 2

    def settle(line: list[tuple[str, int]], wanted: list[float]) -> None:
        apart = [half(a) + half(b) for a, b in zip(line, line[1:])]
        at.update(zip(line, spread(wanted, apart)))

    at: dict[tuple[str, int], float] = {}
    for line in rows:
        settle(line, [0.0] * len(line))
    for turn in range(24):  # down and up: each place goes to the middle of those it is tied to
        for r in range(len(rows)) if turn % 2 == 0 else reversed(range(len(rows))):
            wanted = {
                p: sum(x) / len(x)
                if (x := [at[q] for q in near[p] if turn > 15 or q[1] == r - 1 + 2 * (turn % 2)])
                else at[p]
                for p in rows[r]
            }
            rows[r].sort(key=lambda p: wanted[p])
            settle(rows[r], [wanted[p] for p in rows[r]])
    left = min(x - half(p) for p, x in at.items())
    return {p: x - left for p, x in at.items()}, list(lines), row


def graph(chapters: dict[str, str]) -> str:
    "The chapters as an SVG, with arrows from what is needed to what needs it."
    at, lines, row = laid_out({m: [n for n in imports_of(m) if n in chapters] for m in chapters})
    width = max(x for (m, r), x in at.items()) + WIDE / 2 + 6

    def drawn(a: tuple[str, int], b: tuple[str, int]) -> str:
        (x, y), (x2, y2) = ((at[p], 24 + p[1] * GAP) for p in (a, b))
        start, end = y + HIGH / 2, y2 - HIGH / 2
        bend = (start + end) / 2
        goes_on = row[b[0]] != b[1]  # down its lane, beside the boxes of that row; else into a box, with a head
        tail = f'V{y2 + HIGH / 2:.0f}"' if goes_on else '" marker-end="url(#arrow)"'
        return f'<path d="M{x:.0f} {start:.0f}C{x:.0f} {bend:.0f} {x2:.0f} {bend:.0f} {x2:.0f} {end:.0f}{tail}/>'

    boxes = [
        f'<a href="{page.removesuffix(".md")}.html"><rect x="{x - WIDE / 2:.0f}" y="{y - HIGH / 2:.0f}" '
        f'width="{WIDE}" height="{HIGH}" rx="5"/><text x="{x:.0f}" y="{y + 4:.0f}">{m}</text></a>'
        for m, page in chapters.items()
        for x, y in [(at[m, row[m]], 24 + row[m] * GAP)]
    ]
    return (
        f'<svg class="chapter-graph" viewBox="0 0 {width:.0f} {48 + max(row.values()) * GAP}" aria-label="Chapters and '
        'what they need: each stands below what it imports">'
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="9" markerHeight="9" orient="auto">'
        '<polygon points="0,1 8,4 0,7"/></marker></defs>'
        f'<g class="arrows">{"".join(drawn(*line) for line in lines)}</g><g class="boxes">{"".join(boxes)}</g></svg>'
    )


def architecture_page(chapters: dict[str, str]) -> str:
    "The chapter graph, and what each chapter needs."
    rows = '\n'.join(
        f'| [{m}]({page}) | '
        f'{", ".join(f"[{n}]({chapters[n]})" for n in imports_of(m) if n in chapters) or "nothing"} | '
        f'{len((root / "actrep_nb" / f"{m}.py").read_text(encoding="utf-8").splitlines())} |'
        for m, page in chapters.items()
    )
    return f'''# How the chapters hang together

Each chapter is a module. It imports chapters before it and none after it, so the book can be read and the package
loaded from front to back.
{{ .lede }}

The arrows lead from what is needed to what needs it. Where a chapter needs another through a third, only the longer
way is drawn; the table has them all. The picture and the table are made from the code.

<div class="graph"><p class="hint">The picture is wider than the screen: scroll it sideways.</p><div class="wide"
tabindex="0">{graph(chapters)}</div></div>

| chapter | needs | lines of code |
|---|---|---|
{rows}
'''


# ---- figures ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    "A picture on a page."

    file: str  # under images/pages
    page: str
    title: str  # of the page
    heading: str  # nearest above it
    anchor: str  # of that heading
    words: str  # what it shows

    @property
    def small(self) -> str:
        "The picture in the gallery: all of them at full size would be megabytes."
        return self.file if self.file.endswith('.svg') else Path(self.file).with_suffix('.webp').name


def thumbnail(picture: bytes, sides: tuple[int, int] = (480, 300)) -> bytes:
    "A picture as small WebP, fitted into `sides` (width and height, pixels)."
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert('RGBA')
    image.thumbnail(sides)
    page, out = Image.new('RGBA', image.size, 'white'), io.BytesIO()
    page.alpha_composite(image)
    page.convert('RGB').save(out, 'WEBP', quality=70)
    return out.getvalue()


def caption(words: str, least: int = 30) -> str:
    "The first sentence of what a figure shows, and the next where that one has fewer than `least` characters."
    said = first_sentence(words)
    rest = words[len(said) :].strip()
    return f'{said} {first_sentence(rest)}' if len(said) < least and rest else said


def gallery_page(figures: list[Figure]) -> str:
    "All figures, each leading to where it is explained."
    out = [
        '---\nsearch:\n  exclude: true\n---\n\n# All figures',
        'Each was drawn by a cell of the page it leads to.\n{ .lede }',
    ]
    for title in dict.fromkeys(f.title for f in figures):
        shown = [f for f in figures if f.title == title]
        tiles = ''.join(
            f'<figure><a href="{f.page.removesuffix(".md")}.html{f.anchor}"><img loading="lazy" '
            f'src="images/small/{f.small}" alt="{html.escape(f.words)}"><span>{html.escape(f.heading)}</span></a>'
            f'<figcaption>{html.escape(caption(f.words))}</figcaption></figure>'
            for f in shown
        )
        out.append(f'## {title}\n\n<div class="gallery">{tiles}</div>')
    return '\n\n'.join(out) + '\n'


# ---- for programs that read ----------------------------------------------------------------------------------------


def llms_text(title: str, promise: str, pages: Iterator[tuple[str, str, str]], site_url: str) -> str:
    "llms.txt: what there is to read, as Markdown. `pages`: title, promise and Markdown page of each."
    rows = '\n'.join(
        f'- [{name}]({site_url}/{page.removesuffix(".md")}.html.md)' + (f': {says}' if says else '')
        for name, says, page in pages
    )
    return f'# {title}\n\n> {promise}\n\n## Pages\n\n{rows}\n'


def alternative(cell_source: str, before: str, heading: str) -> str:
    "What a figure shows, in words: as `#| fig-alt:` says, else the sentence that leads up to it, else its heading."
    if said := re.search(r'^#\|\s*fig-alt:\s*(.+)$', cell_source, re.M):
        return said[1].strip().strip('"').replace('"', "'")
    words = re.sub(
        r'<[^>]+>|[`*#>\[\]]',
        '',
        re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', before.strip().rpartition('\n\n')[2].replace('\n', ' ')),
    )
    last = re.split(r'(?<=[.:!?])\s+', words.strip())[-1].strip()
    return (f'{heading}: {last}' if heading and last and last != heading else last or heading).replace('"', "'")[:250]


def notebooks_of(folder: Path) -> dict[str, Path]:
    "Notebooks a reader may want to have, by the name they get on the site."
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob('*.ipynb'))
        if '.ipynb_checkpoints' not in path.parts
    }


def module_of(notebook: Path) -> str:
    "The module a chapter exports; empty for other notebooks."
    for cell in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        if found := re.search(r'^#\|\s*default_exp:?\s+(\S+)', ''.join(cell['source']), re.M):
            return found[1]
    return ''
