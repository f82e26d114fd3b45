import copy

from sppnet.artifacts import read_json
from sppnet.experiment.table_file import write_table_file
from sppnet.tables.results import FORMAT

NEW = {
    "format": FORMAT,
    "claims": [{"id": "spp_beats_no_spp", "smallest": 0.2}],
    "rows": [{"id": "a", "label": "A"}],
    "columns": [{"id": "b", "label": "B"}],
    "skipped": [],
    "seeds": [0],
    "repeats": "seed",
    "metrics": [],
    "paper": {},
    "learned": {"error": 25, "fall": 5},
    "cells": [],
    "built_on": [],
    "reduced": [],
    "created": "",
    "command": "",
}


def _written(file, *, time, num_complete=0, **changes):
    plans = [{"fixed": time, "num_complete": num_complete}]
    write_table_file(file, copy.deepcopy(NEW | {"plans": plans} | changes), is_done=False)
    return read_json(file)["plans"]


def test_a_plan_is_written_once_and_every_change_of_it_after(tmp_path):
    file = tmp_path / "table-ab12cd34.json"
    (first,) = _written(file, time="Monday")
    assert len(first["hash"]) == 64
    assert _written(file, time="Tuesday", num_complete=3) == [first]
    more_seeds = _written(file, time="Wednesday", num_complete=3, seeds=[0, 1])
    assert [plan["fixed"] for plan in more_seeds] == ["Monday", "Wednesday"]
    assert more_seeds[1]["num_complete"] == 3
    assert more_seeds[1]["hash"] != first["hash"]
    easier = _written(file, time="Thursday", num_complete=5, claims=[{**NEW["claims"][0], "smallest": 0.1}])
    assert len(easier) == 3
