"""Solve the weights of a study's ensembles whose members are trained."""

from session import Options, open_session, run


def weigh(options: Options) -> None:
    """Solve the weights of a study's ensembles whose members are trained."""
    with open_session(options) as session:
        session.weigh()


if __name__ == "__main__":
    run(weigh, description=__doc__, options=Options)
