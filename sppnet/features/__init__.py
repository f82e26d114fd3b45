"""Feature vectors of frozen nets, computed once and kept on disk (paper §3.2, §3.3).

Why they are kept: Tables 6 to 8 train many SVMs on the same vectors, and a sweep's jobs run side by side. A
cell that changes only how an SVM is trained must not run a network, and two jobs must not both run it.

They are kept in `sppnet.store`, the rows of 64 consecutive images in a file. Their source is everything but
the images that decides a row: weights (of what runs below the layer only), architecture, layer, pyramid,
view, our source files and the releases of torch and Pillow, the kind of device. Not part of it, and
therefore to be held fixed where the last bit matters: the number of threads.
"""
