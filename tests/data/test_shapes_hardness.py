"""The generated classes can be learned, and not from where the bright pixels are."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import nn

from sppnet.data.datamodule import ImageDataModule
from sppnet.data.records import ViewBatch
from sppnet.data.shapes import ShapesReader
from sppnet.data.sizes import CyclicSizes
from sppnet.data.transforms import ColourNoise
from sppnet.models.views import CropView

pytestmark = pytest.mark.slow
CENTRE = CropView(short_side=82, size=72)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ImageDataModule(
        name="shapes",
        reader=ShapesReader(detection_images=0),
        root=tmp_path_factory.mktemp("shapes"),
        per_class=50,
        test_per_class=40,
        val_fraction=0.0,
        split_seed=0,
        upright=True,
        short_side=82,
        crop=72,
        train_crop="random",
        mean_images=None,
        colour=ColourNoise(scale=0.0, std=[1.0, 1.0, 1.0], axes=np.eye(3).tolist()),
        sizes=CyclicSizes([72]),
        batch_size=32,
        seed=0,
        workers=0,
        cache_gb=1.0,
        max_pixels=1_000_000,
    )


def small_pixels(loader):
    """All images at 32 x 32, as rows of numbers, and their labels."""
    images, labels = [], []
    for batch in loader:
        images_of = batch.images[0] if isinstance(batch, ViewBatch) else batch.images
        whole = images_of.flatten(0, -4).float()
        images.append(F.interpolate(whole, size=(32, 32), mode="area").flatten(1) / 255 - 0.5)
        labels.append(batch.labels)
    return torch.cat(images).numpy(), torch.cat(labels).numpy()


@pytest.mark.filterwarnings("ignore")  # liblinear's advice on convergence
@pytest.mark.parametrize("strength", [1e-4, 1e-3, 1e-2])
def test_a_linear_model_of_the_pixels_stays_near_chance(data, strength):
    model = LogisticRegression(C=strength, max_iter=200).fit(*small_pixels(data.train_dataloader()))
    assert model.score(*small_pixels(data.view_loader(CENTRE))) < 0.25


def test_a_small_convolutional_net_learns_most_of_it_in_320_steps(data):
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 24), (24, 32), (32, 48)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    net = nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    loader = data.train_dataloader()
    for epoch in range(20):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            loss = F.cross_entropy(net(batch.images.float() / 64 - 1), batch.labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval()
    with torch.no_grad():
        correct = [
            (net(b.images[0][:, 0].float() / 64 - 1).argmax(1) == b.labels) for b in data.view_loader(CENTRE)
        ]
    assert torch.cat(correct).float().mean() > 0.6
