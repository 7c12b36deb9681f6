"""URLs with passwords, keys and signed queries, as messages may quote them."""

import pytest

from pipeline.command_line import recorded_command
from stages.masking import masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see s3://KEY:se/cr@et@bucket/cache now", "see s3://***@bucket/cache now"),
        ("sftp://alice:pw@host:22/cache", "sftp://***@host:22/cache"),
        ("sftp://alice@host/cache", "sftp://alice@host/cache"),
        ("https://ghp_token@host/cache", "https://***@host/cache"),
        ("https://host/cache?X-Amz-Signature=ab&x=1", "https://host/cache?***"),
        ("https://host/cache#token=ab", "https://host/cache#***"),
        ("hf://datasets/team/caches@main/demo", "hf://datasets/team/caches@main/demo"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("s3://bucket/cache and cache/demo", "s3://bucket/cache and cache/demo"),
        ("mail a@b.c, C:\\x", "mail a@b.c, C:\\x"),
    ],
)
def test_what_opens_the_door_is_hidden_and_the_rest_is_shown(text: str, shown: str) -> None:
    assert masked(text) == shown


def test_a_recorded_command_names_no_folder_of_the_machine_and_no_password() -> None:
    given = [
        "--config",
        "/srv/alice/topic.toml",
        "--set",
        'data.forget=["/srv/alice/f.jsonl", "data/r.jsonl"]',
        "--out",
    ]
    given += ["cache/demo", "../other", "--set=model.path=/srv/m/", "file:///srv/alice/x", "sftp://a:pw@host/srv/x"]

    assert recorded_command(given) == [
        "duet", "--config", "…/topic.toml", "--set", 'data.forget=["…/f.jsonl", "data/r.jsonl"]', "--out",
        "cache/demo", "../other", "--set=model.path=…/m/", "file://…/x", "sftp://***@host/srv/x",
    ]  # fmt: skip
