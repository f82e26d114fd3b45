"""From files on disk to batches of images, in the layouts the field uses."""
