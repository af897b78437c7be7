"""Scores of images and of sets of images: one class per way of scoring, one yaml in ``conf/metric`` per checkpoint."""
