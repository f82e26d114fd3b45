"""Which test images go through the network together: only images of one shape stack."""

from collections import defaultdict
from collections.abc import Sequence

Shape = tuple[tuple[int, int], ...]  # width and height at every scale of a view, pixels


def stacks_of_like_images(shapes: Sequence[Shape], *, pixels: int) -> list[list[int]]:
    """Group images of equal shape, in stacks of at most `pixels` altogether (one image at least).

    Args:
        shapes: Of every image.
        pixels: Bound on a stack, all scales together, so that memory is bounded whatever the shapes.

    Returns:
        Indices, every one once; stacks by the first image in them.
    """
    alike: dict[Shape, list[int]] = defaultdict(list)
    for index, shape in enumerate(shapes):
        alike[shape].append(index)
    return sorted(
        stack
        for shape, indices in alike.items()
        for stack in equal_stacks(indices, max(1, pixels // sum(width * height for width, height in shape)))
    )


def equal_stacks(indices: Sequence[int], size: int) -> list[list[int]]:
    """Cut indices into stacks of `size`; the last may be smaller."""
    return [list(indices[start : start + size]) for start in range(0, len(indices), size)]
