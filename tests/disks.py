"Disks that are full or only read, as the system makes them."

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def mount(folder: Path, options: str) -> bool:
    "Whether a disk of its own could be put there."
    return not subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode


@contextmanager
def small_disk(folder: Path, size: str = "3m", least: int = 100_000) -> Iterator[Path]:
    "A disk of that size. Where none may be mounted no file may grow beyond `least` bytes while the block runs."
    folder.mkdir(parents=True, exist_ok=True)
    if mount(folder, f"size={size}"):
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (least, hard))
        try:
            yield folder
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def only_read(folder: Path) -> Iterator[bool]:
    "A folder that is there and cannot be written to; says whether that could be arranged."
    bound = not subprocess.run(["mount", "--bind", folder, folder], capture_output=True).returncode
    bound = bound and not subprocess.run(["mount", "-o", "remount,bind,ro", folder], capture_output=True).returncode
    if not bound:
        folder.chmod(0o555)
    try:
        yield bound or os.getuid() != 0
    finally:
        if bound:
            subprocess.run(["umount", "-l", folder], check=True)
        folder.chmod(0o755)
