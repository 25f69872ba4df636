"""The `rspipe` command: one file per command, which parses its options and calls stages in order.

`pipelines/` has the same commands as scripts, since `ray job submit -- python pipelines/full_study.py` needs a file.
"""
