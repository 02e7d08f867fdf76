"""nbdev's notebook processing for the site, with two changes: the introduction under a title stays, and only imports and exports are executed."""
import ast
import re

from fastcore.xtras import dict2obj
from nbdev.frontmatter import FrontmatterProc
from nbdev.processors import FilterDefaults, exec_show_docs


class KeepIntroduction(FrontmatterProc):
    "Title and promise from the first cell. nbdev drops what follows them in that cell; here it stays."

    def cell(self, cell):
        if cell.cell_type == 'markdown' and cell.source and 'title' not in self.fm and (head := re.match(r'\s*# (.+)\n*((?:>.*(?:\n|$))*)', cell.source)):
            promise = ' '.join(line.lstrip('> ').strip() for line in head[2].splitlines())
            self.fm.update(title=head[1].strip(), **({'description': promise} if promise else {}))
            cell.source = cell.source[head.end():].strip() or None
        elif cell.cell_type == 'raw':
            super().cell(cell)


class exec_exports(exec_show_docs):  # noqa: N801  (nbdev names processors like functions)
    """Execute what signatures need: exported cells, `show_doc` and imports.

    nbdev's own version runs a cell that mixes imports with other code as a whole, without the cells before it.
    """

    def __call__(self, cell):
        if not getattr(self.nb, 'has_docs_', None) or cell.cell_type != 'code' or not cell.source or cell.directives_.get('eval') == 'false':
            return
        if documented := re.search(r'^show_doc\(([\w.]+)\)', cell.source, re.M):
            try:
                super().__call__(cell)
            except Exception as error:
                if not isinstance(error.__cause__, NameError):
                    raise
                self.without_signature(cell, documented[1])
        elif cell.directives_.keys() & {'export', 'exports', 'exporti', 'exec_doc'}:
            super().__call__(cell)
        elif imports := [ast.unparse(t) for t in cell.parsed_() or [] if isinstance(t, (ast.Import, ast.ImportFrom))]:
            self.k.run_cell('\n'.join(imports))

    def without_signature(self, cell, name: str) -> None:
        "A signature with types that only a type checker imports (or that a library names so): as it is written in the source."
        for other in self.nb.cells:
            trees = other.parsed_() if other.cell_type == 'code' and other.source and other is not cell else None
            for tree in trees or []:
                if isinstance(tree, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and tree.name == name:
                    lines = other.source.splitlines()
                    header = '\n'.join(lines[tree.lineno - 1:tree.body[0].lineno - 1]) or lines[tree.lineno - 1]
                    summary, _, rest = (ast.get_docstring(tree) or '').partition('\n\n')
                    text = f'---\n\n### {name}\n\n```python\n{header}\n```\n\n*{summary}*\n\n{rest}'
                    cell.outputs = [dict2obj({'output_type': 'display_data', 'metadata': {}, 'data': {'text/markdown': text}})]
                    return
        raise RuntimeError(f'{name}: no signature, and no cell defines it')


class ExportsOnly(FilterDefaults):
    "nbdev's processors, in their order."

    def base_procs(self):
        ours = {exec_show_docs: exec_exports, FrontmatterProc: KeepIntroduction}
        return [ours.get(p, p) for p in super().base_procs()]
