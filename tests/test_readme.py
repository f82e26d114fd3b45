"""What the README shows runs as it is written."""

import re
from pathlib import Path

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
