"""Search the hyper-parameters of a study on its validation split."""

from rspipe.commands.options import StageOptions as Options
from rspipe.commands.session import open_stages
from rspipe.commands.terminal import Terminal


def main(options: Options, terminal: Terminal) -> None:
    """Run the searches that are not finished."""
    with open_stages(options, terminal) as session:
        session.search()
