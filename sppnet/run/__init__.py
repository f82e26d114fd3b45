"""One run of one configuration: its directory, its checkpoints, what guards it while it trains.

Why a package of its own: every task trains under the same promises (a kill loses at most a minute, a
resumed run ends with the same weights bit for bit, a non-finite loss stops before the optimiser's
step), and no task should have to repeat them. Randomness is a function of (seed, step) or of
(seed, epoch, image), never of what was drawn before, so there is no generator state to restore.
"""
