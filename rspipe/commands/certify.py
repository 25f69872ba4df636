"""Certify a study's trained models and weighted ensembles; with --checkpoint files, see certify-model."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal


def main(options: Options, terminal: Terminal) -> None:
    """Certify what is not certified yet."""
    with open_stages(options, terminal) as session:
        session.certify()
