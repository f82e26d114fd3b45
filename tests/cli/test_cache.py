"""sppnet cache: what there is, whether it is whole, and making room."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
from PIL import Image

from sppnet.artifacts import read_json, write_json
from sppnet.cli.cache import main
from sppnet.errors import ArtifactError, DataError, ResourceError
from sppnet.store.entry import Counts, Entry, Images, cache_lock


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A cache of three images' pooled and fc7 features."""
    from sppnet.features.extract import extract
    from sppnet.features.extract_view import ExtractView
    from sppnet.features.specs import FeatureSpec
    from sppnet.models.backbones import LayeredBackbone
    from sppnet.models.initialise import DataDependentInit
    from sppnet.models.normalise import InputNorm
    from sppnet.models.sppnet import SppNet
    from sppnet.store.feature_cache import FeatureCache

    conv = {"conv": 8, "kernel": 3, "stride": 1, "padding": 1}
    net = SppNet(
        backbone=LayeredBackbone(name="two layers", layers=[conv, conv], width=1.0, weights=None),
        input_norm=InputNorm.constant(mean=[128.0] * 3, std=[64.0] * 3),
        levels=[3, 1],
        pooling="bins",
        head_width=6,
        dropout=0.5,
        num_classes=2,
        init=DataDependentInit(score_deviation=0.3),
    )
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((20, 18, 3), 40 * i, dtype=np.uint8)).save(path)
    view = ExtractView(kind="crop", short_side=16, crop=14, upright=True, max_pixels=10_000)
    specs = [FeatureSpec.parse("conv5@3"), FeatureSpec.parse("fc7")]
    extract(net, paths, specs, view, cache=FeatureCache(tmp_path / "cache"))
    return tmp_path / "cache"


def test_stat_prints_a_line_per_layer_network_and_view(root, capsys):
    assert main(["stat", str(root)]) == 0
    header, *rows, total = capsys.readouterr().out.splitlines()
    assert re.split(r"\s{2,}", header)[:7] == [
        "kind", "source", "view", "short side", "images", "dim", "GB",
    ]  # fmt: skip
    cells = sorted(re.split(r"\s{2,}", row)[:7] for row in rows)
    assert cells == [
        ["conv5@3", "two layers", "crop", "16", "3", "72", "0.000"],
        ["fc7", "two layers", "crop", "16", "3", "6", "0.000"],
    ]
    assert total == "2 entries, 0.000 GB"


class Corner:
    """Proposes the upper left corner."""

    settings: ClassVar = {}

    def propose(self, image: Image.Image):
        import torch

        return torch.tensor([[0.0, 0.0, 9.0, 9.0]])


def test_proposals_are_looked_after_with_the_features(root, tmp_path, capsys):
    from sppnet.data.proposals import proposals_of

    class ImageFile(NamedTuple):
        image_id: str
        path: Path

    images = [ImageFile(str(i), tmp_path / f"{i}.png") for i in range(3)]
    proposals_of(images, Corner(), cache_dir=root, jobs=1, max_pixels=10_000)
    assert main(["stat", str(root)]) == 0
    _, *rows, total = capsys.readouterr().out.splitlines()
    cells = [re.split(r"\s{2,}", row)[:7] for row in rows]
    assert ["proposals", "Corner", "as stored", "-", "3", "4", "0.000"] in cells
    assert total == "3 entries, 0.000 GB"
    assert main(["verify", str(root)]) == 0
    assert capsys.readouterr().out == "5 shards, all whole\n"
    assert main(["gc", str(root), "--all"]) == 0
    assert [path.name for path in root.iterdir()] == [".locks"]


def test_stat_of_hostile_text_stays_on_its_line(root, capsys):
    manifest = next(root.glob("*/entry.json"))
    write_json(manifest, {**read_json(manifest), "source": "\x1b[2J\nmine"})
    assert main(["stat", str(root)]) == 0
    said = capsys.readouterr().out
    assert " [2J mine" in said
    assert len(said.splitlines()) == 4


def test_verify_names_damaged_shards(root, capsys):
    assert main(["verify", str(root)]) == 0
    assert capsys.readouterr().out == "2 shards, all whole\n"
    shard = next(root.glob("*/*.f32"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=rf"1 of 2 shards are damaged.*\n{shard}"):
        main(["verify", str(root)])


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_lies_in_a_shards_place_is_damage_and_made_good(root, capsys, tmp_path, kind):
    shard = min(root.glob("*/*.f32"))
    whole = shard.read_bytes()
    shard.rename(tmp_path / "elsewhere")
    if kind == "folder":
        shard.mkdir()
    elif kind == "link":
        shard.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(shard)
    with pytest.raises(ArtifactError, match=rf"1 of 2 shards are damaged.*\n{shard}"):
        main(["verify", str(root)])
    with cache_lock(root, "test", wait=True) as hold:
        suffix, counts = shard.suffix, Counts()
        entry = Entry(shard.parent, dim=1, suffix=suffix, hold=hold, counts=counts)
        images = Images([], shard.name.partition("-")[0])
        assert entry.find_claimed(images) is None
        if kind == "folder":
            with pytest.raises(ResourceError, match=f"{shard}: a folder where a file belongs"):
                entry.write(images, whole)
            shard.rmdir()
        assert entry.write(images, whole) == shard
    assert shard.read_bytes() == whole
    main(["verify", str(root)])
    assert capsys.readouterr().out == "2 shards, all whole\n"


def test_gc_needs_to_be_told_how_much(root, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["gc", str(root)])
    assert stop.value.code == 2
    with pytest.raises(SystemExit):
        main(["gc", str(root), "--days", "-1"])
    assert "--days" in capsys.readouterr().err
    assert len(list(root.glob("*/*.f32"))) == 2


def test_gc_by_age_by_size_and_altogether(root, capsys):
    old, new = sorted(root.glob("*/*.f32"))
    os.utime(old, (1e9, 1e9))
    assert main(["gc", str(root), "--max-gb", "1"]) == 0
    assert old.exists()
    assert main(["gc", str(root), "--days", "30"]) == 0
    assert (old.exists(), new.exists()) == (False, True)
    assert main(["gc", str(root), "--all"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "removed 1 shards, 0.000 GB",
        "removed 1 shards, 0.000 GB",
    ]
    assert [path.name for path in root.iterdir()] == [".locks"]


def test_looking_at_a_cache_does_not_wait_for_torch():
    code = "import sys, sppnet.cli.cache; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_directory_that_is_not_there_is_named(tmp_path):
    for verb in ("stat", "verify"):
        with pytest.raises(DataError, match="nowhere: no such directory"):
            main([verb, str(tmp_path / "nowhere")])
