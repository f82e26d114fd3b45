"""Feature vectors of frozen nets, computed once and kept on disk (paper §3.2, §3.3).

Why a cache: Tables 6 to 8 train many SVMs on the same vectors, and a sweep's jobs run side by side. A
cell that changes only how an SVM is trained must not run a network, and two jobs must not both run it.

What is kept are shards, the rows of 64 consecutive images, each a flat file of little-endian float32:

    ROOT/<32 hex of the extractor>/<32 hex of the images>-<16 hex of the file's own bytes>.f32
    ROOT/<32 hex of the extractor>/entry.json      the extractor in words, and the length of a row

The extractor is everything but the images that decides a row: weights (of what runs below the layer only),
architecture, layer, pyramid, view, our source files and the releases of torch and Pillow, the kind of
device. The images are their files' bytes, in order, wherever they lie. So a stale row is never found, and
one that is found is read only after its digest was checked. Not part of the key, and therefore to be held
fixed where the last bit matters: the number of threads.

Correctness does not depend on locks: a shard appears whole or not at all, and whoever writes it writes
the same. Locks (the kernel's flock, freed when an owner dies) only avoid double work, and keep `sppnet
cache gc` off what a living process reads.
"""
