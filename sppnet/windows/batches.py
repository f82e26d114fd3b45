"""Batches of windows for fine-tuning (paper §4.1).

Axes: n windows, d numbers a vector, b batches of a chunk.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torchdata.stateful_dataloader import StatefulDataLoader

from sppnet.artifacts import stable_seed
from sppnet.data.window_labels import DetectionImage
from sppnet.errors import ConfigError
from sppnet.ops.boxes import flip_boxes
from sppnet.windows.draws import LabelledWindows, WindowDraws, WindowSampling, draw_windows, label_windows
from sppnet.windows.source import WindowSource


@final
class WindowBatch(NamedTuple):
    """Windows of several images; positives first."""

    inputs: Float[Tensor, "n d"]  # what the source makes of them
    labels: Int[Tensor, " n"]  # 0 is the background, 1 the first class
    ids: Int[Tensor, " n"]  # position of each window's image in its set


@final
class WindowDataModule(LightningDataModule):
    """Draws windows chunk by chunk, and computes a chunk's vectors image by image.

    Which windows a batch holds is a function of the seed and its number, so that a run that was killed goes
    on with exactly the batches it had left; it computes the vectors of the chunk it was in once more. Of
    several ranks, each takes every other batch of the same draws and computes no others. The trainer must
    leave the loader's sampler alone (`use_distributed_sampler=False`).

    Args:
        source: Makes vectors of windows of `images`.
        flipped: The same for windows of their mirror images; needed with `sampling.flip` only.
        images: Proposals and truth.
        sampling: What a batch is made of.
        scales: Short sides to draw from with `sampling.random_scale`.
        num_steps: Batches of the one epoch, on every rank.
        seed: Of the draws.
        chunk_steps: Steps that a chunk lasts (500 in the release).
        chunk_gb: A chunk is shorter when its vectors would need more than so many 10^9 bytes: 1.5 are 228
            steps of 128 vectors of 12,800 numbers (ZF-5), 114 of 25,600, 18 of R-CNN's images.
        workers: Images whose vectors are computed at a time; the source must bear as many threads.
        report: Told after every image of a chunk how many are done, and of how many; may raise to stop.

    Attributes:
        chunk_steps: As it came out.

    Raises:
        ConfigError: A number is out of range, or there is nothing to make mirror images' vectors.
    """

    def __init__(  # noqa: PLR0913 - each is one key of conf/finetuning, or an object
        self,
        *,
        source: WindowSource,
        flipped: WindowSource | None,
        images: Sequence[DetectionImage],
        sampling: WindowSampling,
        scales: Sequence[int],
        num_steps: int,
        seed: int,
        chunk_steps: int,
        chunk_gb: float,
        workers: int,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        if min(num_steps, chunk_steps, workers) < 1:
            raise ConfigError(
                f"finetuning: num_steps={num_steps}, chunk_steps={chunk_steps} and workers={workers}: "
                f"expected 1 or more of each"
            )
        if sampling.flip and flipped is None:
            raise ConfigError("finetuning: flip=true needs a source of mirrored windows; set flip=false")
        if sampling.random_scale and not scales:
            raise ConfigError(
                "finetuning: random_scale=true needs scales to draw from; set random_scale=false"
            )
        self.sources = (source, flipped)
        self.images = images
        self.sampling = sampling
        self.scales = tuple(scales)
        self.num_steps = num_steps
        self.seed = seed
        step_bytes = sampling.batch_size * source.dim * torch.float32.itemsize
        self.chunk_steps = max(1, min(chunk_steps, num_steps, int(chunk_gb * 1e9 / step_bytes)))
        self.workers = workers
        self.report = report
        self._chunk: _Chunk | None = None

    @cached_property
    def labelled(self) -> LabelledWindows:
        """All windows that may be drawn; found at first use.

        Raises:
            DataError: No window of any image is positive, or none is background.
        """
        return label_windows(self.images, self.sampling)

    def setup(self, stage: str) -> None:
        """Find the windows: that there are none of a kind is said before anything is trained."""
        _ = self.labelled

    def train_dataloader(self) -> StatefulDataLoader:
        """Batches of `WindowBatch`; its state is the number of the batch, and skipping computes nothing."""
        return StatefulDataLoader(
            range(self.num_steps),
            batch_size=None,
            collate_fn=self.batch,
            pin_memory=torch.cuda.is_available(),
            # Without one of its own a loader draws from the global generator, and so would alter dropout.
            generator=torch.Generator().manual_seed(self.seed),
        )

    def teardown(self, stage: str) -> None:
        """Give the chunk's memory back."""
        self._chunk = None

    def batch(self, step: int) -> WindowBatch:
        """This rank's batch of a step, in memory of its own."""
        number, position = divmod(step, self.chunk_steps)
        if self._chunk is None or self._chunk.number != number:
            self._chunk = self._computed(number)
        chunk = self._chunk
        rows = chunk.draws.rows[position]
        return WindowBatch(
            chunk.vectors[chunk.places[position]],
            self.labelled.labels[rows].long(),
            self.labelled.images[rows].long(),
        )

    def _computed(self, number: int) -> "_Chunk":
        num_ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        num_steps = min(self.chunk_steps, self.num_steps - number * self.chunk_steps)
        drawn = draw_windows(
            self.labelled,
            self.sampling,
            scales=self.scales,
            num_batches=self.chunk_steps * num_ranks,
            generator=torch.Generator().manual_seed(stable_seed(self.seed, "windows", number)),
        )
        own = slice(rank, num_steps * num_ranks, num_ranks)
        scales = None if drawn.scales is None else drawn.scales[own]
        draws = WindowDraws(drawn.rows[own], drawn.is_mirrored[own], scales)
        rows = draws.rows.flatten()
        # One group a picture: 2i for image i, 2i + 1 for its mirror image.
        group_of = 2 * self.labelled.images[rows].long() + draws.is_mirrored.flatten()
        order = group_of.argsort(stable=True)
        groups, counts = torch.unique(group_of, return_counts=True)
        vectors, sizes = self._reused_memory(len(rows)), counts.tolist()
        parts = zip(groups.tolist(), torch.split(order, sizes), torch.split(vectors, sizes), strict=True)
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for count, _ in enumerate(pool.map(lambda part: self._fill(draws, *part), parts), 1):
                    if self.report is not None:
                        self.report(count, len(sizes))
            finally:
                pool.shutdown(cancel_futures=True)
        return _Chunk(number, draws, vectors, order.argsort().view(draws.rows.shape))

    def _reused_memory(self, num_rows: int) -> Float[Tensor, "n d"]:
        """The last chunk's memory, whose vectors are lost from here on."""
        chunk, self._chunk = self._chunk, None
        if chunk is None or len(chunk.vectors) < num_rows:
            return torch.empty(num_rows, self.sources[0].dim)
        return chunk.vectors[:num_rows]

    def _fill(
        self, draws: WindowDraws, group: int, places: Int[Tensor, " n"], out: Float[Tensor, "n d"]
    ) -> None:
        """Compute the vectors of one picture's windows, `places` among all that were drawn."""
        index, is_mirrored = divmod(group, 2)
        windows = self.labelled.windows[draws.rows.flatten()[places]]
        if is_mirrored:
            windows = flip_boxes(windows, self.images[index].image.width)
        scales = None if draws.scales is None else draws.scales.flatten()[places]
        source = self.sources[is_mirrored]
        assert source is not None, "nothing is mirrored without a source of mirrored windows"
        source.rows(self.images[index].image.path, windows, scales=scales, out=out)


@final
class _Chunk(NamedTuple):
    """A chunk's vectors, picture by picture, and where a batch finds its own."""

    number: int
    draws: WindowDraws
    vectors: Float[Tensor, "r d"]
    places: Int[Tensor, "b n"]
