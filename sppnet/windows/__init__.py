"""Vectors of windows: pooled from the maps of whole images (SPP-net), or of warped windows (R-CNN), §4.

Everything that learns or detects asks a `WindowSource` for the vectors of some windows of a picture, and
knows no method. Maps are kept on disk, vectors are not: pooling them again is faster than reading them.
"""
