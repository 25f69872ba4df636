"""Solve the weights of a study's ensembles whose members are trained."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages


def main(options: Options) -> None:
    """Weigh the ensembles that have no weights yet."""
    with open_stages(options) as session:
        session.weigh()
