"""Package metadata from settings.ini, the version from actrep_nb/__init__.py."""

import re
import shlex
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

statuses = ['0 - Pre-Planning', '1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable']
version = re.search(r'^__version__ = "([^"]+)"', (here / cfg['lib_path'] / '__init__.py').read_text(), re.M)
assert version, f"no __version__ in {cfg['lib_path']}/__init__.py"
readme = here / 'README.md'

book = [
    'nbs/experiments/*.ipynb',
    'nbs/experiments/*.sh',
    'nbs/experiments/recipes/*.yaml',
    'data/tiny_base/*',
    'data/tiny_film/*',
]  # what `runs.shipped` is asked for


class BuildWithBook(build_py):
    "The modules, and in their folder experiments, recipes and bases, under the paths that they have here."

    def run(self):
        super().run()
        if self.editable_mode:
            return  # a checkout has them already
        for source in (path for pattern in book for path in here.glob(pattern) if path.is_file()):
            target = Path(self.build_lib) / cfg['lib_path'] / source.relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


setup(
    name=cfg['lib_name'],
    version=version[1],
    description=cfg['description'],
    long_description=readme.read_text(encoding='utf-8') if readme.exists() else cfg['description'],
    long_description_content_type='text/markdown',
    url=cfg['git_url'],
    author=cfg['author'],
    license='Apache-2.0',
    keywords=cfg['keywords'].split(),
    classifiers=[
        f"Development Status :: {statuses[int(cfg['status'])]}",
        f"Intended Audience :: {cfg['audience']}",
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    python_requires=f">={cfg['min_python']}",
    packages=find_packages(include=[cfg['lib_path'], f"{cfg['lib_path']}.*"]),
    include_package_data=True,
    cmdclass={'build_py': BuildWithBook},
    install_requires=shlex.split(cfg['requirements']),
    extras_require={
        'api': shlex.split(cfg['api_requirements']),
        'slurm': shlex.split(cfg['slurm_requirements']),
        'vllm': shlex.split(cfg['vllm_requirements']),
        'pose': shlex.split(cfg['pose_requirements']),
        'dev': shlex.split(cfg['dev_requirements']),
    },
    entry_points={
        'console_scripts': cfg['console_scripts'].split(),
        'papermill.engine': [f"spmd={cfg['lib_path']}.spmd:SpmdEngine"],
        'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"],
    },
    zip_safe=False,
)
