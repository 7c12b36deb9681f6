"""`duet cache sign`: vouch for a cache with a key that one has for ssh."""

from pathlib import Path

import click

from pipeline.cache.shared import folder, json_option
from pipeline.console import ask_passphrase, print_json, say
from stages.logit_cache.reader import LogitCache


@click.command()
@click.argument("cache", type=folder)
@click.option(
    "--key",
    required=True,
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Private Ed25519 key, of OpenSSH or PEM; its passphrase is asked for.",
)
@json_option
def sign(cache: Path, key: Path, as_json: bool) -> None:
    """Check CACHE whole, and put a signature of its manifest beside it, as manifest.sig.

    Several may sign; signing again replaces one's own signature only. `duet cache push` sends the signatures along.

    \b
    Example:
      duet cache sign cache/demo --key ~/.ssh/id_ed25519
      duet cache verify cache/demo --trust ~/.ssh/id_ed25519.pub
    """
    from stages.logit_cache.keys import private_key
    from stages.logit_cache.signature import sign as sign_cache

    own = private_key(key, lambda: ask_passphrase(f"Passphrase of {key}"))
    opened = LogitCache(cache)
    opened.check_every_row()
    signer = sign_cache(cache, opened.manifest, own)
    if as_json:
        print_json({"cache_id": opened.manifest.cache_id, "key": signer.fingerprint, "public_key": signer.line})
        return
    say(f"{cache} is signed by {signer.fingerprint}.")
