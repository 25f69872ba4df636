"""Certify a study's trained models and weighted ensembles on its test split."""

from session import Options, open_session, run


def certify(options: Options) -> None:
    """Certify a study's trained models and weighted ensembles on its test split."""
    with open_session(options) as session:
        session.certify()


if __name__ == "__main__":
    run(certify, description=__doc__, options=Options)
