"""Two files mean the same when they do the same, under every supported Python."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conf.code_meaning import meaning

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11", "3.12", "3.13")

NASTY = r'''
"""Doc."""
from __future__ import annotations
import a.b as c
X: int = 10**3
"""What X is."""
BIG = 123456789012345678901234567890
F = 1e999, -0.0, 0.1, 1_000.5, 3j, ..., None, True, b"\x00\xff", "é\u2028\ud800", u"kind"
S = "a" "b" f"c{x}" "d" f"e"
T = f"{x!r:>{w}.{p}}" f"{y:}" f"" f"{z=}" f"{{}}" f"{d['k']}" f"{t:%H:%M}" f"{x:{'>'}{w}}"
U = f"{x:a{y}b}{x!s}{a}{b}" rf"\n{n}"
V = f"""{
x
}
tri"""
def f(a, /, b=1, *c, d, e=None, **k) -> "int":
    """Doc."""
    return {**a, "b": 2, **c}
async def g(x):
    async with a as b, c: pass
    async for i in x: yield i
class A(B, metaclass=C):
    """Doc."""
    x: int = 1
    def m(self): ...
@d(1)
def h():
    with (open(a) as b, open(c) as d):
        try: pass
        except* ValueError as e: raise X from e
        else: z = {i: j async for i, j in q if i}
        finally: del z
    match x:
        case {"a": 1, **r} | [1, *_] if r: pass
        case A(b=2) as q: pass
        case None | -1 | 1+2j: pass
        case _: global w
    assert x, "m"
    lambda *a, b=2: (yield)
    x[1:2, ..., ::3] = (y := 3)
    print(*a, **b, sep='') if not x else -y
    x @= 1
    while 1 < 2 <= 3 is not 4:
        break
    else: continue_ = 1
'''
GOLDEN = "d4f584110c09de1727007f34873a7a97ecc312fd1f39f71f8197f529d68036f0"


def digest(text: str) -> str:
    return hashlib.sha256(meaning(text.encode("utf-8", "surrogatepass")).encode()).hexdigest()


def test_every_kind_of_syntax_has_the_one_meaning_that_it_had() -> None:
    assert digest(NASTY) == GOLDEN


def interpreter(version: str) -> str | None:
    """Return a Python of this version that runs: on the path, or one of pyenv's."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    for python in (shutil.which(f"python{version}"), *map(str, installed)):
        if python and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0:
            return python
    return None


@pytest.mark.parametrize("version", PYTHONS)
def test_another_python_finds_the_same_meaning_in_every_file(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    (tmp_path / "nasty.py").write_text(NASTY)
    script = (
        "import hashlib, pathlib, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from conf.code_digest import release_digest\n"
        "from conf.code_meaning import meaning\n"
        f"text = pathlib.Path({str(tmp_path / 'nasty.py')!r}).read_bytes()\n"
        "print(hashlib.sha256(meaning(text).encode()).hexdigest(), release_digest())\n"
    )
    told = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    ours = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout == ours.stdout and told.stdout.startswith(GOLDEN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1\n", "x = 1  # one\n"),
        ("x = 1\ny = 2\n", "x = 1\r\ny = 2\r\n"),
        ('x = """a\nb"""\n', 'x = """a\r\nb"""\r\n'),
        ("x = 1\n", '"""Doc."""\nx = 1\n"""What x is."""\n'),
        ("def f():\n    return 1\n", 'def f():\n    """Doc."""\n    return 1\n'),
        ("class A:\n    pass\n", 'class A:\n    """Doc."""\n'),
        ("x = (1 +\n  2)\n", "x = 1 + 2\n"),
        ("x = 'ab'\n", 'x = ("a"\n     "b")\n'),
        ("x = f'a{b}c'\n", "x = f'a' f'{b}' 'c'\n"),
        ("x = 'abc'\n", "x = f'abc'\n"),
        ("x = 255\n", "x = 0xFF\n"),
        ("x = 'é'\n", "x = '\\xe9'\n"),
        ("x = 1\n", "\ufeffx = 1\n"),
        ("x = 1\n", "x = 1"),
        ("x = f(1, help='a')\n", "x = f(1, help='b')\n"),
        ("x = f(1, help='a')\n", "x = f(1)\n"),
    ],
)
def test_the_same_code_written_otherwise_means_the_same(one: str, other: str) -> None:
    assert meaning(one.encode()) == meaning(other.encode())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1\n", "x = 2\n"),
        ("x = 1\n", "x = 1.0\n"),
        ("x = 1\n", "x = True\n"),
        ("x = 0.0\n", "x = -0.0\n"),
        ("x = 'a'\n", "x = b'a'\n"),
        ("x = 'None'\n", "x = None\n"),
        ("x = ...\n", "x = None\n"),
        ('"""Doc."""\n', 'x = """Doc."""\n'),
        ("def f(a=1): return a\n", "def f(a=2): return a\n"),
        ("def f(a, b): ...\n", "def f(a, *, b): ...\n"),
        ("a()\nb()\n", "b()\na()\n"),
        ("def f(): ...\ndef g(): ...\n", "def g(): ...\ndef f(): ...\n"),
        ("if x:\n    a()\nb()\n", "if x:\n    a()\n    b()\n"),
        ("if x: pass\nelse: a()\n", "if x: a()\n"),
        ("x = f'{a!r}'\n", "x = f'{a!s}'\n"),
        ("x = f'{a:.2f}'\n", "x = f'{a:.3f}'\n"),
        ("x = f'{a}{b}'\n", "x = f'{a} {b}'\n"),
        ("x = {**a, 'b': 1}\n", "x = {'b': 1, **a}\n"),
        ("class A:\n    x: int = 1\n", "class A:\n    x: float = 1\n"),
        ("from a import b\n", "from .a import b\n"),
        ("from a import b\n", "from a import b as c\n"),
        ("x = a < b\n", "x = a <= b\n"),
        ("x = f(help=a)\n", "x = f(help=b)\n"),
        ("x = f(help=1)\n", "x = f(help=2)\n"),
    ],
)
def test_other_code_means_something_else(one: str, other: str) -> None:
    assert meaning(one.encode()) != meaning(other.encode())
