"""Train the base classifiers of a study, with the winners of its searches that are finished."""

from session import Options, open_session, run


def train(options: Options) -> None:
    """Train the base classifiers of a study, with the winners of its searches that are finished."""
    with open_session(options) as session:
        session.train()


if __name__ == "__main__":
    run(train, description=__doc__, options=Options)
