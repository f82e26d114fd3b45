"""What the package promises to those who import it, and what must never be in it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sppnet

ROOT = Path(sppnet.__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("sppnet/**/*.py"), *ROOT.glob("hydra_plugins/**/*.py")])


@pytest.mark.parametrize("name", sppnet.__all__)
def test_public_names_are_there_and_explained(name: str):
    assert getattr(sppnet, name).__doc__
    assert name in dir(sppnet)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'spam'"):
        _ = sppnet.spam


@pytest.mark.parametrize(
    "module",
    ["sppnet", "sppnet.cli.main", "sppnet.experiment.sweep", "sppnet.tables", "sppnet.store.feature_cache"],
)
def test_what_must_answer_at_once_imports_nothing_heavy(module: str):
    code = f"import sys, {module}; print({{'torch', 'torchvision', 'pytorch_lightning'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def calls(tree: ast.AST) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_foreign_code_or_writes_around_the_one_writer(source: Path):
    for call in calls(ast.parse(source.read_text(encoding="utf-8"))):
        name = ast.unparse(call.func)
        assert name not in ("eval", "exec", "os.system", "pickle.load", "pickle.loads", "yaml.load"), name
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert keywords.get("shell") != "True"
        assert keywords.get("allow_pickle") != "True"
        if name in ("torch.load", "fit"):
            assert keywords.get("weights_only") == "True"


def test_no_file_is_longer_than_a_room():
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 300] == []
