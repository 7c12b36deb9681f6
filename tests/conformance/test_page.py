"""docs/models.md against the matrix, and the matrix against what the engines assume."""

from conformance.architectures import CONFIGS, UNLISTED
from conformance.write_page import table_lines

from stages.language_model.architectures import KEEPS_STATES, TAKES_PADDING


def listed() -> dict[str, str]:
    """Architectures of the page's table, and how it says that they are batched."""
    return {name: line.split("|")[2].strip() for name, line in table_lines().items()}


def test_the_page_lists_exactly_the_architectures_of_the_matrix() -> None:
    assert list(listed()) == list(CONFIGS)


def test_nothing_is_assumed_of_an_architecture_that_is_not_in_the_matrix() -> None:
    tested = {config().model_type for config in CONFIGS.values()}

    assert set(TAKES_PADDING) | set(KEEPS_STATES) <= tested
    assert not (set(TAKES_PADDING) | set(KEEPS_STATES)) & {config().model_type for config in UNLISTED.values()}


def test_the_page_says_how_each_is_batched() -> None:
    padded = {name: config().model_type in TAKES_PADDING for name, config in CONFIGS.items()}

    assert {name: batches == "padded" for name, batches in listed().items()} == padded
