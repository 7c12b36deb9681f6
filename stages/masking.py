"""Text that may quote a URL in, the same text out without what opens the door: passwords, keys and signed queries."""

import re

HIDDEN = "***"
# Keys are written into URLs with slashes and @ as they are: all up to the last @ is hidden rather than a part shown.
_USER_AND_PASSWORD = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@:]*:(?!\d+/)[^\s]*@")
# Where there is no password, a name alone may be a token; of a login it is a name.
_USER_ALONE = re.compile(r"((?!(?:sftp|ssh|ftp|smb)://)\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#@:]+@")
_QUERY = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://[^\s?#\"']*[?#])[^\s\"']+")


def masked(text: str) -> str:
    """The text with what stands before the @ of a URL, and behind its ?, as ***."""
    if "://" not in text:
        return text
    for pattern, shown in (
        (_USER_AND_PASSWORD, rf"\1{HIDDEN}@"),
        (_USER_ALONE, rf"\1{HIDDEN}@"),
        (_QUERY, rf"\1{HIDDEN}"),
    ):
        text = pattern.sub(shown, text)
    return text


def secrets_of(url: str) -> list[str]:
    """The parts of the URL that `masked` hides, longest first: for errors of libraries, which quote them by themselves."""
    _, _, rest = url.partition("://")
    found = []
    if "@" in rest:
        user, _, password = rest.rpartition("@")[0].partition(":")
        # A library may have cut it where a URL is cut.
        found += [password, *re.split(r"[/@?#:]", password)]
        found += [user] if not url.startswith(("sftp:", "ssh:", "ftp:", "smb:")) else []
    for mark in "?#":
        query = rest.partition(mark)[2]
        found += [query, *(each.partition("=")[2] for each in query.split("&"))]
    # Shorter ones are no secrets, and stand in every text.
    return sorted({each for each in found if len(each) > 3}, key=len, reverse=True)
