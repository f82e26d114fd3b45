"""What the README shows runs as it is written."""

import re
import shlex
from pathlib import Path

from sppnet.cli.main import VERBS
from sppnet.experiment.command_line import known_keys
from sppnet.experiment.installation import conf_dir

README = Path(__file__).parents[1] / "README.md"


def test_its_python_runs_from_top_to_bottom():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) > 1
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["svm"].status_ == ["converged"] * 3


def test_no_table_is_cut_by_a_blank_line():
    lines = README.read_text().splitlines()
    for above, line, below in zip(lines, lines[1:], lines[2:], strict=False):
        assert line or not (above.startswith("|") and below.startswith("|"))


def test_its_commands_name_what_there_is():
    text = README.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    inline = re.findall(r"`(sppnet [^`]*)`", text)
    commands = [
        line for block in blocks for line in block.splitlines() if line.startswith("sppnet ")
    ] + inline
    assert len(commands) > 30
    keys = {*known_keys(), "hydra/launcher"}
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        if words[0] in VERBS:
            continue
        for word in words:
            key, equals, value = word.partition("=")
            if word in ("--help", "--config-dir", "conf", "--cfg", "job"):
                continue
            assert equals and (key in keys or key in ("paths.weights", "proposals.paths")), command
            if (conf_dir() / key).is_dir():
                there_are = {file.stem for file in (conf_dir() / key).glob("*.yaml")} | {"mobilenet"}
                assert set(value.split(",")) <= there_are, command
