"""nbdev's notebook processing for the site, with three changes.

The introduction under a title stays; outside exported cells only imports are executed; records are shown with their
fields as written.
"""

import ast
import re
from collections.abc import Iterator

from fastcore.xtras import dict2obj
from nbdev.frontmatter import FrontmatterProc
from nbdev.processors import FilterDefaults, exec_show_docs


class KeepIntroduction(FrontmatterProc):
    "Title and promise from the first cell. nbdev drops what follows them in that cell; here it stays."

    def cell(self, cell):
        if (
            cell.cell_type == 'markdown'
            and cell.source
            and 'title' not in self.fm
            and (head := re.match(r'\s*# (.+)\n*((?:>.*(?:\n|$))*)', cell.source))
        ):
            promise = ' '.join(line.lstrip('> ').strip() for line in head[2].splitlines())
            self.fm.update(title=head[1].strip(), **({'description': promise} if promise else {}))
            cell.source = cell.source[head.end() :].strip() or None
        elif cell.cell_type == 'raw':
            super().cell(cell)


class exec_exports(exec_show_docs):  # noqa: N801  (nbdev names processors like functions)
    """Execute what signatures need: exported cells, `show_doc` and imports.

    nbdev's own version runs a cell that mixes imports with other code as a whole, without the cells before it.
    """

    def __call__(self, cell):
        if (
            not getattr(self.nb, 'has_docs_', None)
            or cell.cell_type != 'code'
            or not cell.source
            or cell.directives_.get('eval') == 'false'
        ):
            return
        if documented := re.search(r'^show_doc\(([\w.]+)\)', cell.source, re.M):
            self.document(cell, documented[1])
        elif cell.directives_.keys() & {'export', 'exports', 'exporti', 'exec_doc'}:
            super().__call__(cell)
        elif imports := [ast.unparse(t) for t in cell.parsed_() or [] if isinstance(t, (ast.Import, ast.ImportFrom))]:
            self.k.run_cell('\n'.join(imports))

    def document(self, cell, name: str) -> None:
        "nbdev's entry. A record gets its fields as written, and what nbdev cannot evaluate its signature as written."
        try:
            super().__call__(cell)
        except Exception as error:
            if not isinstance(
                error.__cause__, NameError
            ):  # a type that only a type checker imports, here or in a library
                raise
            header, tree = next(((h, t) for h, t in self.written(name)), (None, None))
            if tree is None:
                raise
            first, _, rest = (ast.get_docstring(tree) or '').partition('\n')
            text = f'---\n\n### {name}\n\n```python\n{header}\n```\n\n*{first}*\n{rest}'
            cell.outputs = [dict2obj({'output_type': 'display_data', 'metadata': {}, 'data': {'text/markdown': text}})]
        else:
            for header, tree in self.written(name):
                if isinstance(tree, ast.ClassDef) and any('dataclass' in ast.unparse(d) for d in tree.decorator_list):
                    for data in (o.data for o in cell.outputs if 'text/markdown' in o.get('data', {})):
                        entry = ''.join(data['text/markdown'])
                        data['text/markdown'] = re.sub(
                            r'```python\n.*?\n```',
                            lambda m, header=header: f'```python\n{header}\n```',
                            entry,
                            count=1,
                            flags=re.S,
                        )

    def written(self, name: str) -> Iterator[tuple[str, ast.stmt]]:
        """Head of the definition of `name` as the notebook has it: parameters with their comments, or fields with
        theirs.
        """
        for cell in self.nb.cells:
            if cell.cell_type != 'code' or not cell.source or not re.search(rf'\b(?:def|class) {name}\b', cell.source):
                continue
            lines = cell.source.splitlines()
            for tree in ast.parse(cell.source).body:
                if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef)) and tree.name == name:
                    yield '\n'.join(lines[tree.lineno - 1 : max(tree.lineno, tree.body[0].lineno - 1)]), tree
                elif isinstance(tree, ast.ClassDef) and tree.name == name:
                    fields = [
                        line
                        for s in tree.body
                        if isinstance(s, ast.AnnAssign)
                        for line in lines[s.lineno - 1 : s.end_lineno]
                    ]
                    start = min([tree.lineno, *(d.lineno for d in tree.decorator_list)])
                    yield '\n'.join(lines[start - 1 : tree.lineno] + fields), tree


class ExportsOnly(FilterDefaults):
    "nbdev's processors, in their order."

    def base_procs(self):
        ours = {exec_show_docs: exec_exports, FrontmatterProc: KeepIntroduction}
        return [ours.get(p, p) for p in super().base_procs()]
