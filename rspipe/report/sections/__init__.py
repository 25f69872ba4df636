"""Sections of the report, one file each: numbers, table, figure, note."""
