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


def graph(chapters: dict[str, str]) -> str:
    "The chapters as an SVG: each as far down as the longest way to it, with arrows from what it needs."
    order = list(chapters)
    needs = {m: [n for n in imports_of(m) if n in chapters] for m in order}
    level: dict[str, int] = {}
    for m in order:
        level[m] = 1 + max((level[n] for n in needs[m] if n in level), default=-1)
    rows: dict[int, list[str]] = {}
    for m in order:
        rows.setdefault(level[m], []).append(m)
    wide, high, gap = 104, 30, 64
    width = max(map(len, rows.values())) * (wide + 12) + 12
    at = {
        m: (width / 2 + (i - (len(row) - 1) / 2) * (wide + 12), 24 + depth * gap)
        for depth, row in rows.items()
        for i, m in enumerate(row)
    }
    arrows = [
        f'<path d="M{at[n][0]:.0f} {at[n][1] + high / 2:.0f}C{at[n][0]:.0f} {at[n][1] + gap / 2:.0f} {at[m][0]:.0f} '
        f'{at[m][1] - gap / 2:.0f} {at[m][0]:.0f} {at[m][1] - high / 2:.0f}"/>'
        for m, ns in nearest(needs).items()
        for n in ns
    ]
    boxes = [
        f'<a href="{chapters[m].removesuffix(".md")}.html"><rect x="{x - wide / 2:.0f}" y="{y - high / 2:.0f}" '
        f'width="{wide}" height="{high}" rx="5"/><text x="{x:.0f}" y="{y + 4:.0f}">{m}</text></a>'
        for m, (x, y) in at.items()
    ]
    return (
        f'<svg class="chapter-graph" viewBox="0 0 {width:.0f} {48 + max(rows) * gap}" aria-label="Chapters and what '
        'they need: each stands below what it imports">'
        f'<g class="arrows">{"".join(arrows)}</g><g class="boxes">{"".join(boxes)}</g></svg>'
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

<div class="wide">{graph(chapters)}</div>

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


def gallery_page(figures: list[Figure]) -> str:
    "All figures, each leading to where it is explained."
    out = [
        '---\nsearch:\n  exclude: true\n---\n\n# All figures',
        'Each was drawn by a cell of the page it leads to.\n{ .lede }',
    ]
    for title in dict.fromkeys(f.title for f in figures):
        shown = [f for f in figures if f.title == title]
        tiles = ''.join(
            f'<a href="{f.page.removesuffix(".md")}.html{f.anchor}"><img loading="lazy" src="images/small/{f.small}" '
            f'alt=""><span>{html.escape(f.heading)}</span></a>'
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
