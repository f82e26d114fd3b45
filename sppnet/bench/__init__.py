"""Side-by-side timings against what a user would write with stock modules.

Why CPU time on one thread, interleaved: wall time on a shared machine measured the neighbours.
"""
