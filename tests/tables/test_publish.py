import json
import socket

import pytest

from sppnet.errors import ConfigError
from sppnet.tables.escape import without_machine_paths
from sppnet.tables.publish import publish
from sppnet.tables.results import read_table


def test_a_published_table_says_what_made_it(sweep, tmp_path):
    sweep.describe(
        command="sppnet experiment=table2 data.root=../photos paths.runs=/scratch/jane/runs",
        data="folder (/home/jane/photos)",
    )
    sweep.run("no_spp", "zf5", 0.36)
    sweep.run("spp_single", "zf5", 0.35)
    (sweep.directory / "half" / "x").mkdir(parents=True)
    (sweep.directory / "half" / "status.json").write_text("{")  # its note names a path
    files = publish(read_table(sweep.directory), tmp_path / "published", name="t2-mini")
    assert [file.name for file in files] == ["t2-mini.md", "t2-mini.json"]
    document, data = (file.read_text() for file in files)
    for text in (document, data):
        assert "data.root=../photos paths.runs=runs" in text
        assert all(secret not in text for secret in (str(tmp_path), "jane", socket.gethostname()))
        assert "abc1234" in text
        assert "2.11.0" in text
        assert "a processor, 2 cores" in text
    environment = json.loads(data)["environment"]
    # Two runs of 10.5 seconds.
    assert (environment["seconds of all runs together"], environment["commit"]) == ("21", "abc1234")
    assert "| (a) no SPP | 36.00 (35.99, +0.01) | missing |" in document


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "x" * 101, "a\n"])
def test_a_name_that_is_no_file_name_is_refused(sweep, tmp_path, name):
    sweep.describe()
    with pytest.raises(ConfigError, match="--publish"):
        publish(read_table(sweep.directory), tmp_path / "published", name=name)
    assert not (tmp_path / "published").exists()


@pytest.mark.parametrize(
    ("typed", "published"),
    [
        ("sppnet data.root=/home/jane/photos", "sppnet data.root=photos"),
        ("sppnet data.root=/home/jane/photos/", "sppnet data.root=photos"),
        ("/opt/x/bin/sppnet a=[/a/b,/c/d]", "sppnet a=[b,d]"),
        ("'paths.runs=/home/Jane Doe/my runs' x", "'paths.runs=my runs' x"),
        ("root=file:///home/jane/photos", "root=photos"),
        ("runs in ../runs/table2, ~/x and a/b", "runs in ../runs/table2, ~/x and a/b"),
        ("width 1/8, top-1 / top-5, 120 / 60", "width 1/8, top-1 / top-5, 120 / 60"),
        ("https://arxiv.org/abs/1406.4729", "https://arxiv.org/abs/1406.4729"),
    ],
)
def test_absolute_paths_are_shortened_and_all_else_is_kept(typed, published):
    assert without_machine_paths(typed) == published
