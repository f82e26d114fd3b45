"""What is computed of images and kept: vectors, maps and proposals, found by content.

    ROOT/<32 hex of the source>/<32 hex of the images>-<16 hex of the file's own bytes>.f32
    ROOT/<32 hex of the source>/entry.json      the source in words

A source is everything but the images that decides what is computed of them; the images are their files'
bytes, in order, wherever they lie. So nothing stale is ever found, and what is found is used only after its
digest was checked.

Correctness does not depend on locks: a file appears whole or not at all, and whoever writes it writes the
same. Locks (the kernel's flock, freed when an owner dies) only avoid double work, and keep `sppnet cache gc`
off what a living process reads.

Nothing heavy is imported here: the command line looks at a cache without torch.
"""
