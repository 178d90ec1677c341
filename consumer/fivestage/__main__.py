"""The command ``fivestage``."""

import sys
import sysconfig


def main() -> None:
    """Run the command line.

    Exits with 2 on a free-threaded build of Python: threads share data that only the interpreter lock
    protects.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        version = ".".join(map(str, sys.version_info[:2]))
        print(  # noqa: T201 - before anything else is imported
            f"fivestage: free-threaded builds of Python are not supported: use python{version}, not the "
            f"python{version}t of {sys.executable}",
            file=sys.stderr,
        )
        sys.exit(2)
    from fivestage.cli import app  # noqa: PLC0415 - its imports may fail on a free-threaded build

    app(prog_name="fivestage")


if __name__ == "__main__":
    main()
