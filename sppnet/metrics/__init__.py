"""How good are scores and detections: average precision by the rules of the VOC devkit (paper §3.2, §4).

Why not torchmetrics' own: its detection metric follows COCO, which counts other pixels, matches otherwise
and knows no difficult objects; its classification metric has no third label and no eleven points. The
arithmetic here is NumPy's in double precision, wherever the scores come from: the same number on every
device, and twenty classes of five million detections in half a second.
"""
