"""Boxes, labels and sheets as in the paper's Fig. 6."""

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from sppnet.data.voc2007 import VOC_CLASSES
from sppnet.data.window_labels import GroundTruth
from sppnet.errors import ConfigError
from sppnet.figures.detections import class_colours, contact_sheet, draw_detections
from sppnet.metrics.detection_ap import Detections

CLASSES = ("cat", "person")


def detections(*rows):
    """Rows of x1 y1 x2 y2 score label."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].long())


def grey(width=400, height=300):
    return Image.new("RGB", (width, height), (90, 90, 90))


def changed(before, after):
    return (np.asarray(before) != np.asarray(after)).any(axis=2)


def test_all_four_sides_of_a_box_have_the_colour_of_its_class_both_ends_included():
    drawn = draw_detections(grey(), detections((50, 60, 250, 200, 0.9, 1)), CLASSES, show_above=0.0)
    colour = class_colours(CLASSES)["person"]
    pixels = np.asarray(drawn)
    assert (pixels[200, 50:251] == colour).all()
    assert (pixels[60:201, 50] == colour).all()
    assert (pixels[60:201, 250] == colour).all()
    assert (pixels[60, 50:251] == colour).all()
    assert tuple(pixels[201, 50]) == tuple(pixels[200, 251]) == (90, 90, 90)
    assert tuple(pixels[130, 150]) == (90, 90, 90)


def test_the_label_stands_on_the_box():
    before = grey()
    drawn = draw_detections(before, detections((50, 60, 250, 200, 0.9, 1)), CLASSES, show_above=0.0)
    above = changed(before, drawn)[:60]
    rows, columns = np.nonzero(above)
    assert rows.max() == 59
    assert columns.min() == 50
    # Filled: its rectangle holds no pixel of the picture, but some of the text.
    assert above[rows.min() :, columns.min() : columns.max() + 1].all()
    assert len({tuple(pixel) for pixel in np.asarray(drawn)[rows, columns]}) > 1


@pytest.mark.parametrize(
    "corner", [(0, 0, 30, 20), (370, 0, 399, 20), (0, 280, 30, 299), (370, 280, 399, 299)]
)
def test_a_label_at_any_corner_is_wholly_inside_the_picture(corner):
    def mask(box):
        return changed(grey(), draw_detections(grey(), detections((*box, 0.9, 1)), CLASSES, show_above=0.0))

    rows, columns = np.nonzero(mask((150, 150, 180, 170))[:150])
    label = (np.ptp(rows) + 1, np.ptp(columns) + 1)
    assert label[1] > 31  # wider than the box: beyond the border it would be cut off
    assert sliding_window_view(mask(corner), label).all(axis=(2, 3)).any()


def test_two_labels_of_one_box_do_not_hide_each_other():
    def ground(name, *found):
        drawn = draw_detections(grey(), detections(*found), CLASSES, show_above=0.0)
        return (np.asarray(drawn) == class_colours(CLASSES)[name]).all(axis=2)

    cat, person = (100, 100, 300, 250, 0.8, 0), (100, 100, 300, 250, 0.9, 1)
    # Above row 100 is only the label. The worse class's line is under the better one's.
    assert ground("person", cat, person)[:100].sum() == ground("person", person)[:100].sum()
    assert ground("cat", cat, person).sum() == ground("cat", cat)[:100].sum()


def test_the_better_of_two_equal_boxes_lies_over_the_other():
    for scores, name in (((0.9, 0.8), "cat"), ((0.8, 0.9), "person")):
        found = detections((50, 60, 250, 200, scores[0], 0), (50, 60, 250, 200, scores[1], 1))
        drawn = draw_detections(grey(), found, CLASSES, show_above=0.0)
        assert drawn.getpixel((249, 130)) == class_colours(CLASSES)[name]


def test_only_what_scores_above_the_limit_is_drawn_and_the_given_picture_stays():
    before = grey()
    found = detections((50, 60, 250, 200, 0.5, 1))
    assert not changed(before, draw_detections(before, found, CLASSES, show_above=0.5)).any()
    assert not changed(before, draw_detections(before, detections(), CLASSES, show_above=0.0)).any()
    assert changed(before, draw_detections(before, found, CLASSES, show_above=0.4)).any()
    assert not changed(before, grey()).any()


def test_a_box_beyond_the_picture_is_drawn_at_its_border():
    drawn = draw_detections(grey(), detections((-80, -20, 900, 299.4, 0.9, 1)), CLASSES, show_above=0.0)
    colour = class_colours(CLASSES)["person"]
    assert drawn.getpixel((399, 150)) == drawn.getpixel((0, 150)) == drawn.getpixel((200, 299)) == colour


def test_objects_are_dashed():
    truth = GroundTruth(torch.tensor([[50.0, 60, 250, 200]]), torch.tensor([0]), torch.tensor([False]))
    drawn = draw_detections(grey(), detections(), CLASSES, show_above=0.0, truth=truth)
    side = (np.asarray(drawn)[60, 50:251] == class_colours(CLASSES)["cat"]).all(axis=1)
    assert 0.4 < side.mean() < 0.6
    assert side[0]


def test_lines_and_text_grow_with_the_picture():
    def inked(scale):
        found = detections((50 * scale, 60 * scale, 250 * scale, 200 * scale, 0.9, 1))
        before = grey(400 * scale, 300 * scale)
        return changed(before, draw_detections(before, found, CLASSES, show_above=0.0)).mean()

    assert inked(8) == pytest.approx(inked(2), rel=0.15)


@pytest.mark.parametrize("size", [(1, 1), (9, 200), (200, 9)])
def test_tiny_pictures_are_drawn_too(size):
    found = detections((0, 0, size[0] - 1, size[1] - 1, 0.9, 1))
    assert draw_detections(grey(*size), found, CLASSES, show_above=0.0).size == size


def test_vocs_classes_have_twenty_colours_that_no_order_changes():
    colours = class_colours(VOC_CLASSES)
    assert len(set(colours.values())) == 20
    assert class_colours(VOC_CLASSES[::-1]) == colours
    # 200 classes of ILSVRC's detection task; a class of its own keeps its colour among the first 24.
    assert len(set(class_colours([f"class {number}" for number in range(200)]).values())) == 200
    assert class_colours(["aeroplane"])["aeroplane"] == colours["aeroplane"]


def test_a_sheet_shows_every_picture_whole_and_in_reading_order():
    reds = [
        Image.new("RGB", size, (10 * number, 0, 0))
        for number, size in enumerate([(50, 20), (20, 50), (30, 30)])
    ]
    sheet = np.asarray(contact_sheet(reds, columns=2, side=50))
    assert sheet.shape == (1 + 50 + 1 + 30 + 1, 1 + 50 + 1 + 50 + 1, 3)
    for number, image in enumerate(reds):
        rows, columns = np.nonzero((sheet == (10 * number, 0, 0)).all(axis=2))
        assert len(rows) == image.width * image.height
        assert (rows.min() > 50, columns.min() > 50) == divmod(number, 2)


def test_a_sheet_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="0 pictures"):
        contact_sheet([], columns=2, side=50)
