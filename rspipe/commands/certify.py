"""Certify a study's trained models and weighted ensembles; with --checkpoint files, see certify-model."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages


def main(options: Options) -> None:
    """Certify what is not certified yet."""
    with open_stages(options) as session:
        session.certify()
