"""`rspipe bundle` as a script."""

from rspipe.commands.main import run

if __name__ == "__main__":
    run("bundle")
