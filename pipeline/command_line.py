"""The command as it was given, fit to be published: without passwords, and without the folders of this machine."""

import re
import sys
from collections.abc import Sequence

from stages.masking import masked

# An absolute path, alone or within `--set data.forget=["…"]`; not the slashes of a URL.
ABSOLUTE = re.compile(r"""(?<![\w./:~…\\-])/(?:[^\s/"',\[\]{}]+/+)*(?=[^\s/"',\[\]{}])""")
HOME_OF_URL = re.compile(r"""((?:file|local)://)/(?:[^\s/"',\[\]{}]+/+)*""")


def recorded_command(arguments: Sequence[str] | None = None) -> list[str]:
    """`duet` and its arguments (default: this process's), as a manifest names them.

    A manifest travels with its cache: what a URL says before its @ and behind its ? is ***, and of an absolute path the last
    name stays, behind `…/`.
    """
    return ["duet", *(_fit(each) for each in (sys.argv[1:] if arguments is None else arguments))]


def _fit(argument: str) -> str:
    if argument.startswith("/"):  # a path from end to end, spaces included
        return "…/" + argument.rstrip("/").rpartition("/")[2]
    return ABSOLUTE.sub("…/", HOME_OF_URL.sub(r"\1…/", masked(argument)))
