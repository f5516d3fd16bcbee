"""Nothing in the packages executes what it reads: no pickle family, no eval, no shell string."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("conf", "strategies", "client", "server", "azureml_jobs")
MODULES = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "jsonpickle",
}
CALLS = {
    *("eval", "exec", "compile", "os.system", "os.popen"),
    *(
        "torch.load",
        "torch.save",
        "pandas.read_pickle",
        "mlflow.pytorch.log_model",
        "mlflow.pyfunc.load_model",
    ),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load"),
}
SHORT = {"np": "numpy", "pd": "pandas"}


def dangers(source: str) -> list[str]:
    """Return what a module imports or calls that can execute the data it is given, with line numbers."""
    tree, names = ast.parse(source), dict(SHORT)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
            found += [
                f"{node.lineno}: import {a.name}"
                for a in node.names
                if a.name.split(".")[0] in MODULES
            ]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {
                alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names
            }
            if node.module.split(".")[0] in MODULES:
                found.append(f"{node.lineno}: from {node.module}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [f"{node.lineno}: {danger}" for danger in dangers_of_call(node, names)]
    return found


def dangers_of_call(call: ast.Call, names: dict[str, str]) -> list[str]:
    """Return why one call is dangerous; `names` maps local names to the modules they stand for."""
    first, dot, rest = ast.unparse(call.func).partition(".")
    called = names.get(first, first) + dot + rest
    words = {word.arg: word.value for word in call.keywords}
    found = [called] if called in CALLS else []
    if is_not_false(words.get("shell")):
        found.append(f"{called}(shell=)")
    if called in ("numpy.load", "numpy.lib.format.read_array") and is_not_false(
        words.get("allow_pickle")
    ):
        found.append(f"{called}(allow_pickle=)")
    return found


def is_not_false(value: ast.expr | None) -> bool:
    """Whether a keyword argument is given as anything but the literal False."""
    return value is not None and not (isinstance(value, ast.Constant) and value.value is False)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_package_executes_what_it_reads(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): dangers(path.read_text())
        for path in sorted((ROOT / package).rglob("*.py"))
        if dangers(path.read_text())
    }
    assert found == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import dumps",
        "def f():\n    import dill",
        "import torch\ntorch.load('a')",
        "from torch import load\nload('a')",
        "import torch as t\nt.load('a')",
        "import numpy as np\nnp.load('a', allow_pickle=True)",
        "import numpy\nnumpy.load('a', allow_pickle=flag)",
        "import yaml\nyaml.load(text, Loader)",
        "eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import os\nos.system('ls')",
    ],
)
def test_a_danger_is_found(source: str) -> None:
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source",
    ["model.eval()", "import numpy as np\nnp.load('a', allow_pickle=False)", "import re\nre.compile('a')",
     "import torch\ntorch.compile(model)", "import subprocess\nsubprocess.run(['ls'], shell=False)"],
)  # fmt: skip
def test_what_is_harmless_passes(source: str) -> None:
    assert dangers(source) == []
