"""Hyper-parameter search: spaces, proposals, judged trials, sensitivity."""
