"""What code runs, by following imports: nothing is forgotten when a file moves."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sppnet.sources import changed_since, code_of

FILES = {
    "ops/a.py": "from sppnet.ops.b import thrice\n\ndef twice(x):\n    return 2 * x\n",
    "ops/b.py": "def thrice(x):\n    return 3 * x\n",
    "stages/one.py": (
        "from typing import TYPE_CHECKING\n\nfrom sppnet.stages.shared import clock, read\n\n"
        "if TYPE_CHECKING:\n    from sppnet.ops.b import thrice\n\n_SIDE = 3\n\n"
        "def first(x):\n    return read(x) + _SIDE\n\n"
        "def second(x):\n    from sppnet.ops import a\n\n    return a.twice(clock(x))\n"
    ),
    "stages/shared.py": "def read(x):\n    return x\n\n\ndef clock(x):\n    return x\n",
}
Write = Callable[[str, str], Path]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        file = tmp_path / "sppnet" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        (file.parent / "__init__.py").touch()
    return tmp_path / "sppnet"


def test_imports_are_followed_wherever_they_stand(package: Path):
    assert set(code_of(["sppnet.ops.a"], package=package)) == {"sppnet.ops.a", "sppnet.ops.b"}
    assert set(code_of(["sppnet.stages.one:second"], package=package)) == {
        "sppnet.stages.one:second",
        "sppnet.stages.shared:clock",
        "sppnet.ops.a",
        "sppnet.ops.b",
    }


def test_of_a_stage_counts_what_it_uses_and_not_its_neighbours(package: Path):
    def changes(file: str, old: str, new: str) -> bool:
        before = code_of(["sppnet.stages.one:first"], package=package)
        text = (package / file).read_text()
        (package / file).write_text(text.replace(old, new))
        after = code_of(["sppnet.stages.one:first"], package=package)
        (package / file).write_text(text)
        return before != after

    assert changes("stages/one.py", "_SIDE = 3", "_SIDE = 4")
    assert changes("stages/one.py", "read(x) + ", "read(x) - ")
    assert changes("stages/shared.py", "def read(x):\n    return x", "def read(x):\n    return 2 * x")
    assert not changes("stages/one.py", "a.twice", "3 * a.twice")
    assert not changes("stages/shared.py", "def clock(x):\n    return x", "def clock(x):\n    return 2 * x")
    assert not changes("ops/b.py", "3 * x", "4 * x")  # only a type checker imports it


def test_an_edit_of_a_renamed_file_is_seen(package: Path):
    """A list of names kept by hand did not see it: old features were served for new code."""
    (package / "ops/b.py").rename(package / "ops/c.py")
    (package / "ops/a.py").write_text(FILES["ops/a.py"].replace("ops.b", "ops.c"))
    before = code_of(["sppnet.ops.a"], package=package)
    (package / "ops/c.py").write_text("def thrice(x):\n    return x + x + x\n")
    assert code_of(["sppnet.ops.a"], package=package) != before


def test_what_changed_is_named_and_what_is_gone_too(package: Path):
    recorded = code_of(["sppnet.stages.one:second"], package=package)
    assert changed_since(recorded, package=package) == []
    edited = dict(recorded)
    edited["sppnet.ops.a"] = "0" * 64
    edited["sppnet.ops.gone"] = "0" * 64
    assert changed_since(edited, package=package) == ["sppnet.ops.a", "sppnet.ops.gone"]


def test_a_module_of_the_users_own_counts_with_what_it_imports_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine_of_test").mkdir()
    (tmp_path / "mine_of_test" / "__init__.py").touch()
    (tmp_path / "mine_of_test" / "reader.py").write_text("import numpy\n\nfrom . import layout\n")
    (tmp_path / "mine_of_test" / "layout.py").write_text("DEPTH = 2\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = code_of(["mine_of_test.reader"])
    assert set(found) == {"mine_of_test.layout", "mine_of_test.reader"}


def test_asking_what_has_changed_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Names come from a run's files, and those may come from anywhere."""
    (tmp_path / "hostile_of_test").mkdir()
    (tmp_path / "hostile_of_test" / "__init__.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "hostile_of_test" / "part.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    recorded = dict.fromkeys(
        ["hostile_of_test.part", "hostile_of_test", "../x", "a..b", "", "sppnet./etc/x"], "0"
    )
    assert changed_since(recorded) == list(recorded)
    assert "hostile_of_test.part" in code_of(["hostile_of_test.part"])
