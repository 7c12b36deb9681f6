"""`python -m pipeline` is `duet`."""

from pipeline.cli import duet

if __name__ == "__main__":
    duet()
