"""The command ``fivestage``."""

import sys
import sysconfig


def main() -> None:
    """Run the command line.

    Exits with 2 on a free-threaded build of Python: what loops and threads hand to each other is guarded by
    the interpreter lock.
    """
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        sys.exit(_refused())
    from fivestage.cli import app  # noqa: PLC0415 - what it imports may not run on such a build

    app(prog_name="fivestage")


def _refused() -> int:
    version = ".".join(map(str, sys.version_info[:2]))
    print(  # noqa: T201 - before anything else is imported
        f"fivestage: free-threaded builds of Python are not supported: use python{version}, not the "
        f"python{version}t of {sys.executable}",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    main()
