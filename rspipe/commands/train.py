"""Train the base classifiers of a study, with the winners of its searches that are finished."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal


def main(options: Options, terminal: Terminal) -> None:
    """Train what is not trained yet."""
    with open_stages(options, terminal) as session:
        session.train()
