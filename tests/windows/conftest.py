"""A net of two convolutions and images of a few pixels: see tests/tiny_nets.py."""

from tiny_nets import cache, make_net, make_view, one_thread, paths  # noqa: F401
