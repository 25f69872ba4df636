"""Solve the weights of a study's ensembles whose members are trained."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal


def main(options: Options, terminal: Terminal) -> None:
    """Weigh the ensembles that have no weights yet."""
    with open_stages(options, terminal) as session:
        session.weigh()
