"""Pictures of what a network sees and finds (paper Fig. 6: detections).

Why a package of its own: drawing needs what the tasks computed and nothing else needs drawing, so that a
run on a machine without a screen never loads it.
"""
