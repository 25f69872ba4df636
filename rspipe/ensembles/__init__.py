"""Ensembles: moments of margins, weights solved from them, the choice among weightings, diagnostics."""
