"""The house itself: who may import whom, the README's example, the public page."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import metalearn as ml

ROOT = Path(__file__).parents[1]
FAMILIES = {"meta", "multitask", "federated", "transfer", "continual", "online"}
LEVELS = [  # a file imports from its own level or from earlier ones
    {"core", "arguments", "files", "tree", "inner_products"},
    {"minibatch", "mapping", "aggregate", "penalty", "metrics", "nets", "data"},
    {"inner"},
    {"outer", "losses", "placement"},
    FAMILIES,
    {"host", "report"},
]


def level(name):
    return next(i for i, names in enumerate(LEVELS) if name in names)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "metalearn":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        if isinstance(node, ast.Import):
            yield from [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("metalearn.")]


def test_who_imports_whom():
    wrong = []
    for path in (ROOT / "metalearn").rglob("*.py"):
        parts = path.relative_to(ROOT / "metalearn").with_suffix("").parts
        if parts[0] == "__init__":
            continue
        for name in imports(path):
            other_family = {parts[0], name} <= FAMILIES and parts[0] != name
            if level(name) > level(parts[0]) or other_family:
                wrong.append(f"{'/'.join(parts)} imports {name}")
    assert not wrong


def test_files_are_small_and_only_one_imports_orbax():
    for path in (ROOT / "metalearn").rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, path
        assert path.name == "checkpoint.py" or not re.search(r"^\s*(import|from) orbax", text, re.M), path


def examples():
    """The README's, in order, without the one that needs a trained model."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    return [one for one in found if "omniglot.load" not in one]


def test_the_example_of_the_readme_runs():
    example, *_ = examples()
    assert len(example.strip().splitlines()) <= 10
    assert "70_000" in example
    names = {}
    exec(example.replace("70_000", "120, progress=False, log_every=40"), names)
    losses = ml.column(names["history"], "train/loss")[1]
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_all_examples_of_the_readme_run():
    names, (first, pieces, clients, tasks) = {}, examples()
    exec(first.replace("num_steps=70_000", "num_steps=3, progress=False"), names)
    exec(pieces, names)
    exec(clients.replace("num_steps=40", "num_steps=40, progress=False"), names)
    assert names["accuracies"].shape == (16,) and names["accuracies"].mean() > 0.5
    exec(tasks.replace("num_steps=500", "num_steps=200, progress=False, log_every=50"), names)
    losses = ml.column(names["history"], "train/digit/loss")[1]
    assert losses[-1] < 0.5 * losses[0]


def test_the_public_page_is_complete_and_documented():
    for name in ml.__all__:
        assert getattr(ml, name).__doc__, name


def test_folders_are_loaded_when_first_asked_for():
    code = (
        "import sys, metalearn as ml; "
        "assert not {'metalearn.federated', 'metalearn.multitask'} & set(sys.modules); "
        "assert ml.federated.fedavg and 'federated' in dir(ml)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
