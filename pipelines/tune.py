"""Search the hyper-parameters of a study on its validation split."""

from session import Options, open_session, run


def tune(options: Options) -> None:
    """Search the hyper-parameters of a study on its validation split."""
    with open_session(options) as session:
        session.search()


if __name__ == "__main__":
    run(tune, description=__doc__, options=Options)
