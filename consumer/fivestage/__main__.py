"""The command ``fivestage``."""

from fivestage.cli import app


def main() -> None:
    """Run the command line."""
    app(prog_name="fivestage")


if __name__ == "__main__":
    main()
