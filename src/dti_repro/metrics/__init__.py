"""Scores of single images: one class per way of scoring, one yaml in ``conf/metric`` per checkpoint."""
