"""Run the chapters again, one after the other, in real kernels, and store what they print: `make pages`.

Cells marked `#| eval: false` keep the output they have. What hidden cells print is not stored, nor are the error stream
(libraries log there) and the names of temporary folders, which differ each time. A chapter that fails is left as it
was,
and named; the exit status is then 1. `python tools/pages.py 07 index` runs only these.
"""

import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

root = Path(__file__).resolve().parents[1]
os.environ.setdefault(
    'DS_ACCELERATOR', 'cpu'
)  # or DeepSpeed tells each page, with the time of day, that it looked for a GPU


class ChapterClient(NotebookClient):
    "Skips the cells that nbdev-test skips."

    async def async_execute_cell(self, cell, cell_index, *args, **kwargs):
        if re.search(r'^#\|\s*eval:?\s*false', cell.source, re.M):
            return cell
        return await super().async_execute_cell(cell, cell_index, *args, **kwargs)


def run(path: Path) -> None:
    "Execute one notebook in place. Its outputs are stored only if all of its cells ran."
    nb = nbformat.read(path, as_version=4)
    kernel = nb.metadata.get('kernelspec', {}).get('name', 'python3')
    ChapterClient(
        nb, kernel_name=kernel, timeout=600, coalesce_streams=True, resources={'metadata': {'path': str(path.parent)}}
    ).execute()
    for cell in nb.cells:
        if cell.cell_type == 'code':
            hidden = re.search(r'^#\|\s*hide\b(?!_)', cell.source, re.M)
            cell.outputs = [] if hidden else [o for o in cell.outputs if o.get('name') != 'stderr']
    text = nbformat.writes(nb)
    text = re.sub(re.escape(tempfile.gettempdir()) + r'/tmp[a-z0-9_]{8}', '…', text).replace(f'{root}/', '')
    path.write_text(text + '\n', encoding='utf-8')


def main() -> int:
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # as make sets it
    os.environ.setdefault('HF_HUB_OFFLINE', '1')
    os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
    wanted = sys.argv[1:]
    paths = sorted((root / 'nbs').glob('[0-9][0-9]*_*.ipynb')) + [root / 'nbs/index.ipynb']
    failed = []
    for path in paths:
        if not path.exists() or (wanted and not any(w in path.stem for w in wanted)):
            continue
        start = time.monotonic()
        try:
            run(path)
            print(
                f'  {time.monotonic() - start:5.1f} s  {path.relative_to(root)}  {path.stat().st_size // 1024} KB',
                flush=True,
            )
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(path.name)
            print(f'  FAILED   {path.relative_to(root)}\n{error}', flush=True)
    return int(bool(failed))


if __name__ == '__main__':
    raise SystemExit(main())
