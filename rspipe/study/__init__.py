"""The study file: what it may say, and the specs that it resolves to."""

from rspipe.study.config import StudyConfig
from rspipe.study.loading import load_study

__all__ = ["StudyConfig", "load_study"]
