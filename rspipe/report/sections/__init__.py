"""Sections of the report: a module with numbers, tables and figures, and a template of its name with the words."""
