"""What must agree is what a silo executes, by what it means; the rest of the tree may differ."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf.code_digest import (
    FRONT,
    NOT_TREE,
    PACKAGES,
    covered_files,
    release_digest,
    run_digest,
    run_files,
    tree_digest,
)
from conf.errors import SiloError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "releases.md"
RUN = run_files("digits", "mlp", "fedavg")
LINE = "\nA_LINE_MORE = 1\n"

REFUSED = (
    "client/app.py",
    "client/loop.py",
    "client/policy.py",
    "client/tasks/base.py",
    "client/tasks/digits.py",
    "client/models/mlp.py",
    "strategies/__init__.py",
    "strategies/fedavg.py",
    "strategies/average.py",
    "conf/schema/run.py",
    "conf/parse.py",
    "conf/seeds.py",
    "strategies/wire/packing.py",
    "strategies/wire/protocol.py",
)
ACCEPTED = (
    "server/report/page.py",
    "azureml_jobs/cli/verbs.py",
    "azureml_jobs/rehearsal/cloud.py",
    "server/round/rounds.py",
    "client/node/node.py",
    "strategies/fedprox.py",
    "client/tasks/mnist.py",
    "client/models/cnn.py",
    "conf/compose.py",
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copyfile(ROOT / FRONT, tmp_path / FRONT)
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    return tmp_path


def add(file: Path, text: str) -> None:
    file.write_bytes(file.read_bytes() + text.encode())


@pytest.mark.parametrize("name", [*REFUSED, *ACCEPTED])
def test_a_one_line_change_is_accepted_or_not_as_the_page_says(tree: Path, name: str) -> None:
    add(tree / name, LINE)
    assert (run_digest(RUN, tree) == run_digest(RUN)) == (name in ACCEPTED)
    assert name.startswith(NOT_TREE) == (tree_digest(tree) == tree_digest())


def test_the_page_s_table_names_only_files_that_are_tried_here() -> None:
    rows = [row for row in PAGE.read_text().splitlines() if row.startswith("| ")]
    said = {}
    for row in rows:
        for name in re.findall(r"\(`([\w/]+\.py)`\)", row):
            said[name] = row.split("|")[2].strip().startswith("yes")
    assert len(said) >= 9
    assert said == {name: name in ACCEPTED for name in said}
    assert set(said) <= {*REFUSED, *ACCEPTED}


def test_a_comment_a_docstring_and_line_ends_change_no_digest_but_that_of_the_tree(
    tree: Path,
) -> None:
    for name in covered_files(RUN, tree):
        add(tree / name, '\n# a comment\n"""and a text alone"""\n')
        text = (tree / name).read_bytes()
        (tree / name).write_bytes(text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert run_digest(RUN, tree) == run_digest(RUN)
    assert release_digest(tree) == release_digest()
    assert tree_digest(tree) != tree_digest()


def test_line_ends_alone_change_not_even_the_tree_s_digest(tree: Path) -> None:
    for name in covered_files(RUN, tree):
        text = (tree / name).read_bytes()
        (tree / name).write_bytes(text.replace(b"\n", b"\r\n"))
    assert tree_digest(tree) == tree_digest()


def test_a_new_task_a_backup_and_compiled_files_change_no_run_that_does_not_name_them(
    tree: Path,
) -> None:
    (tree / "client" / "loop.py~").write_text("broken(")
    (tree / "client" / "loop.py.orig").write_text("broken(")
    (tree / "client" / "__pycache__").mkdir()
    (tree / "client" / "__pycache__" / "loop.cpython-311.pyc").write_bytes(b"\0")
    (tree / "strategies" / "a folder.py").mkdir()
    before = release_digest(tree)
    (tree / "client" / "tasks" / "private.py").write_text("task = 1\n")
    assert run_digest(RUN, tree) == run_digest(RUN)
    assert before == release_digest() != release_digest(tree)


def test_what_the_run_s_strategy_builds_on_counts_as_well(tree: Path) -> None:
    fedprox = run_files("digits", "mlp", "fedprox")
    add(tree / "strategies" / "fedavg.py", LINE)
    assert run_digest(fedprox, tree) != run_digest(fedprox)


def test_what_silos_do_for_a_hosted_fedprox_counts(tree: Path) -> None:
    hosted = run_files("digits", "mlp", "flwr.FedProx")
    assert hosted == ("client/tasks/digits.py", "client/models/mlp.py", "strategies/fedprox.py")
    add(tree / "strategies" / "fedprox.py", LINE)
    assert run_digest(hosted, tree) != run_digest(hosted)
    assert run_digest(RUN, tree) == run_digest(RUN)


def test_a_default_of_the_schema_counts(tree: Path) -> None:
    schema = tree / "conf" / "schema" / "run.py"
    text = schema.read_text()
    before = "rounds: int = number(\n        5,\n        at_least=1,"
    assert before in text
    schema.write_text(text.replace(before, before.replace("5,", "6,"), 1))
    assert run_digest(RUN, tree) != run_digest(RUN)


def test_the_text_of_a_key_does_not_count(tree: Path) -> None:
    schema = tree / "conf" / "schema" / "run.py"
    text = schema.read_text()
    assert 'help="rounds of the run"' in text
    schema.write_text(text.replace('help="rounds of the run"', 'help="how many rounds"', 1))
    assert run_digest(RUN, tree) == run_digest(RUN)


def test_a_link_counts_as_the_file_that_it_leads_to(tree: Path, tmp_path: Path) -> None:
    loop = tree / "client" / "loop.py"
    elsewhere = loop.rename(tmp_path / "elsewhere.py")
    loop.symlink_to(elsewhere)
    assert run_digest(RUN, tree) == run_digest(RUN)


def test_a_run_s_file_that_is_not_there_is_named(tree: Path) -> None:
    with pytest.raises(SiloError, match=r"MDW-336: The run needs client/tasks/other\.py"):
        run_digest(run_files("other", "mlp", "fedavg"), tree)


@pytest.mark.parametrize("damage", ["broken(\n", "x = '\0'\n", "# coding: none\n", None])
def test_a_source_file_that_can_not_be_read_is_named(tree: Path, damage: str | None) -> None:
    file = tree / "client" / "app.py"
    if damage is None:
        file.unlink()  # compiled files alone
    else:
        file.write_text(damage)
    with pytest.raises(SiloError, match=r"MDW-335: .*client/app\.py can't be read as Python"):
        run_digest(RUN, tree)


def test_all_that_the_app_imports_from_this_tree_is_covered() -> None:
    modules = [name.removesuffix(".py").replace("/", ".") for name in RUN]
    script = (
        "import importlib, sys\n"
        "import client.app\n"
        f"for name in {modules}: importlib.import_module(name)\n"
        f"for name in sorted(sys.modules):\n"
        f"    if name.split('.')[0] in {PACKAGES}: print(sys.modules[name].__file__)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {Path(line).relative_to(ROOT).as_posix() for line in told.stdout.splitlines()}
    assert len(loaded) > 20
    assert loaded <= set(covered_files(RUN))


def test_no_covered_module_reads_the_docstrings_that_the_digest_leaves_out() -> None:
    everything = [*run_files("digits", "mlp", "fedprox"), *run_files("mnist", "cnn", "external")]
    for name in covered_files(everything):
        text = (ROOT / name).read_text()
        assert "__doc__" not in text and "getsource" not in text, name


def test_the_locale_the_folder_and_the_hash_seed_change_no_digest(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from conf.code_digest import release_digest, tree_digest\n"
        "print(release_digest(), tree_digest())"
    )
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONHASHSEED": "7"}
    told = subprocess.run(
        [sys.executable, "-OO", "-c", script],
        cwd=tmp_path,
        env=odd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == [release_digest(), tree_digest()]


def test_an_archive_is_refused_in_words(tree: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "meadow"), "zip", tree)
    script = (
        f"import sys; sys.path.insert(0, {archive!r})\n"
        "from conf.code_digest import release_digest\n"
        "release_digest()"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-c", script], cwd="/", capture_output=True, text=True
    )
    assert "MDW-335" in told.stderr and "neither compiled files alone nor" in told.stderr


def test_a_tree_that_can_only_be_read_is_enough(tree: Path) -> None:
    for path in [tree, *tree.rglob("*")]:
        path.chmod(0o555)
    try:
        assert release_digest(tree) == release_digest()
    finally:
        for path in [tree, *tree.rglob("*")]:
            path.chmod(0o755)
