"""`duet cache …` on caches that the tiny model's teacher really wrote."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import CHAT_TEMPLATE, assert_same_row
from workspace import RETAIN, Workspace, make_workspace, write_lines

from stages.logit_cache.fingerprint import NO_PREFIX
from stages.logit_cache.manifest import SHARDS
from stages.logit_cache.reader import LogitCache


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """One capture, K = 5 and two positions. Read only."""
    workspace = make_workspace(tmp_path_factory.mktemp("captured"), tiny_model)
    result = workspace.teacher_cache()
    assert result.exit_code == 0, result.output
    return workspace


def shards(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((cache / SHARDS).iterdir())}


@pytest.mark.parametrize(("top_k", "positions"), [(3, 1), (5, 1), (2, 2), (5, 2)])
def test_a_slice_is_byte_for_byte_the_capture_at_its_size(
    captured: Workspace, tmp_path: Path, top_k: int, positions: int
) -> None:
    sliced, smaller = tmp_path / "sliced", tmp_path / "captured"
    size = ("--set", f"teacher.top_k={top_k}", "--set", f"teacher.positions={positions}")
    assert captured.duet("teacher-cache", "--config", captured.settings, "--out", smaller, *size).exit_code == 0

    cut = captured.duet("cache", "slice", captured.cache, "--k", top_k, "--positions", positions, "--out", sliced)

    assert cut.exit_code == 0, cut.output
    one, other = LogitCache(sliced).manifest, LogitCache(smaller).manifest
    assert one.cache_id == other.cache_id
    assert shards(sliced) == shards(smaller)
    assert one.provenance.derived_from == [LogitCache(captured.cache).manifest.cache_id]


@pytest.mark.parametrize("size", [("--k", 6), ("--positions", 3)])
def test_a_slice_cannot_hold_more_than_its_cache(captured: Workspace, tmp_path: Path, size: tuple[str, int]) -> None:
    result = captured.duet("cache", "slice", captured.cache, *size, "--out", tmp_path / "more")

    assert result.exit_code == 1
    assert "A slice can only leave things out" in result.output
    assert not (tmp_path / "more").exists()


def test_show_says_what_a_cache_is_and_what_its_teacher_says(captured: Workspace) -> None:
    manifest = LogitCache(captured.cache).manifest
    whole = captured.duet("cache", "show", captured.cache)
    machine = json.loads(captured.duet("cache", "show", captured.cache, "--json").stdout)
    row = LogitCache(captured.cache).row(0)
    example = captured.duet("cache", "show", captured.cache, "--query", row.query, "--json", "--top", 2)

    assert "7 (3 forget, 4 retain)" in whole.output
    assert machine == manifest.model_dump(mode="json")
    (said,) = json.loads(example.stdout)
    assert [each["id"] for each in said["positions"][0]["candidates"]] == row.topk_ids[0][:2].tolist()
    unknown = captured.duet("cache", "show", captured.cache, "--example", "zz")
    assert unknown.exit_code == 1
    assert "holds 0 examples" in unknown.output
    near = captured.duet("cache", "show", captured.cache, "--query", row.query.removesuffix("?"))
    assert near.exit_code == 1
    assert f"{row.example_id}  {row.query}" in near.output


def test_verify_passes_a_sound_cache_and_its_rows_asked_again(captured: Workspace) -> None:
    result = captured.duet("cache", "verify", captured.cache, "--rescore", 7, "--engine", "transformers", "--json")

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["faults"] == []
    assert report["rescored"]["rows"] == 7
    assert report["rescored"]["max_abs_difference"] < 1e-4
    assert report["rescored"]["same_set"] == 1


DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou know all.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHAT_TEMPLATE
SYSTEM_LAST = (
    "{% for m in messages if m.role != 'system' %}<|im_start|>{{ m.content }}{% endfor %}"
    "{% for m in messages if m.role == 'system' %}<|im_start|>{{ m.content }}{% endfor %}<|im_end|>"
)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, DEFAULT_SYSTEM, NO_SYSTEM, SYSTEM_LAST])
def test_rows_are_asked_again_as_they_were_where_all_forget_queries_begin_alike(
    tmp_path: Path, tiny_model: Path, template: str
) -> None:
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    (model / "chat_template.jinja").write_text(template)
    workspace = make_workspace(tmp_path, model)
    countries = ("Peru", "Chad", "Laos")
    write_lines(tmp_path / "forget.jsonl", [{"query": f"What is the capital of {each}?"} for each in countries])
    write_lines(tmp_path / "retain.jsonl", [{"query": "Why is the sky blue?"}, {"query": "Name a river in Chad."}])
    assert workspace.teacher_cache("--set", "teacher.prefix_on_retain=true").exit_code == 0

    result = workspace.duet("cache", "verify", workspace.cache, "--rescore", 5, "--engine", "transformers", "--json")

    if template is SYSTEM_LAST:
        assert result.exit_code == 1 and "cannot be made again" in result.output, result.output
    else:
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["rescored"]["max_abs_difference"] < 1e-4


def test_verify_names_every_faulty_shard(captured: Workspace, tmp_path: Path) -> None:
    copy = make_workspace(tmp_path, captured.model)
    assert copy.teacher_cache().exit_code == 0
    for path in (copy.cache / SHARDS).glob("*.parquet"):
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    (copy.cache / SHARDS / "extra.txt").write_text("what is this?")

    result = copy.duet("cache", "verify", copy.cache, "--json")

    assert result.exit_code == 1
    report, _ = json.JSONDecoder().raw_decode(result.stdout)
    assert [fault["shard"] for fault in report["faults"]] == [
        "extra.txt",
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]


def second_topic(captured: Workspace, folder: Path, forget: list[str]) -> Workspace:
    folder.mkdir()
    other = make_workspace(folder, captured.model)
    write_lines(folder / "forget.jsonl", [{"query": query} for query in forget])
    result = other.teacher_cache()
    assert result.exit_code == 0, result.output
    return other


def test_a_merge_holds_each_example_once_in_order(captured: Workspace, tmp_path: Path) -> None:
    other = second_topic(captured, tmp_path / "other", ["Who wrote Emma?"])
    merged = tmp_path / "merged"

    result = captured.duet("cache", "merge", captured.cache, other.cache, "--out", merged)

    assert result.exit_code == 0, result.output
    expected = [*LogitCache(captured.cache).rows(), LogitCache(other.cache).row(0)]
    found = list(LogitCache(merged).rows())
    assert len(found) == len(expected) == 8
    for one, row in zip(found, expected, strict=True):
        assert_same_row(one, row)
    assert captured.duet("cache", "verify", merged).exit_code == 0


def test_a_merge_of_contradictions_lists_them_and_writes_nothing(captured: Workspace, tmp_path: Path) -> None:
    # A query that is kept in one topic is to be forgotten in the other.
    other = second_topic(captured, tmp_path / "other", ["Who wrote Emma?"])
    write_lines(other.folder / "forget.jsonl", [{"query": RETAIN[0]}])
    write_lines(other.folder / "retain.jsonl", [{"query": "Why?"}])
    contrary = other.folder / "contrary"
    assert other.duet("teacher-cache", "--config", other.settings, "--out", contrary).exit_code == 0

    result = captured.duet("cache", "merge", captured.cache, contrary, "--out", tmp_path / "merged")

    assert result.exit_code == 1
    assert "1 examples stand in two of the caches" in result.output
    assert RETAIN[0] in result.output
    assert not (tmp_path / "merged").exists()


def test_caches_of_another_size_are_not_merged(captured: Workspace, tmp_path: Path) -> None:
    small = tmp_path / "small"
    assert captured.duet("cache", "slice", captured.cache, "--k", 3, "--out", small).exit_code == 0

    result = captured.duet("cache", "merge", captured.cache, small, "--out", tmp_path / "merged")

    assert result.exit_code == 1
    assert "top_k: 5 → 3" in result.output


@pytest.fixture(scope="module")
def base(captured: Workspace) -> Path:
    """The same queries, all without the prefix."""
    folder = captured.folder / "base"
    result = captured.duet("teacher-cache", "--config", captured.settings, "--no-prefix", "--out", folder)
    assert result.exit_code == 0, result.output
    assert "duet cache diff" in result.output
    return folder


def test_without_a_prefix_the_teacher_reads_what_the_student_reads(captured: Workspace, base: Path) -> None:
    opened = LogitCache(base)
    assert opened.manifest.fingerprint.prefix_sha256 == NO_PREFIX
    assert opened.manifest.prefix.token_ids == []
    # Asked again, each row is its student's own prompt.
    again = captured.duet("cache", "verify", base, "--rescore", 7, "--engine", "transformers", "--json")
    assert json.loads(again.stdout)["rescored"]["max_abs_difference"] < 1e-4
    assert "none: these are the base model's" in captured.duet("cache", "show", base).output


def test_teacher_and_base_stand_side_by_side(captured: Workspace, base: Path) -> None:
    row, bare = LogitCache(captured.cache).row(0), LogitCache(base).row(0)
    shown = captured.duet("cache", "show", captured.cache, "--example", row.example_id[:8], "--beside", base, "--json")

    teacher, plain = json.loads(shown.stdout)
    for said, expected in ((teacher, row), (plain, bare)):
        assert [each["id"] for each in said["positions"][0]["candidates"]] == expected.topk_ids[0].tolist()
    assert row.topk_logits.tolist() != bare.topk_logits.tolist()
    shifts = json.loads(captured.duet("cache", "diff", base, captured.cache, "--json").stdout)
    assert {each["split"] for each in shifts["summary"] if each["max_abs_shift"] > 0.01} == {"forget", "retain"}


def test_a_cache_without_a_prefix_trains_nobody(captured: Workspace, base: Path, tmp_path: Path) -> None:
    result = captured.duet("distill", "--config", captured.settings, "--cache", base, "--out", tmp_path / "run")

    assert result.exit_code == 1
    assert "was captured without a prefix" in result.output
    assert not (tmp_path / "run").exists()


def test_a_prefix_on_retain_queries_alone_is_refused(captured: Workspace, tmp_path: Path) -> None:
    alone = ("--set", "teacher.prefix_on_forget=false", "--out", tmp_path / "cache")
    result = captured.duet("teacher-cache", "--config", captured.settings, *alone)

    assert result.exit_code == 2
    assert "prefix_on_retain without prefix_on_forget" in result.output


def test_a_diff_shows_the_shift_that_the_prefix_makes(captured: Workspace, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    bare = ("--set", "teacher.prefix_on_retain=false")
    assert captured.duet("teacher-cache", "--config", captured.settings, "--out", plain, *bare).exit_code == 0

    result = captured.duet("cache", "diff", plain, captured.cache, "--json")

    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    by_split = {each["split"]: each for each in report["summary"]}
    # Forget queries were asked behind the prefix in both, retain queries in one alone.
    assert by_split["forget"]["max_abs_shift"] < 1e-4
    assert by_split["forget"]["overlap"] == 1
    assert by_split["retain"]["max_abs_shift"] > 0.01
    one, other = LogitCache(plain).row(3), LogitCache(captured.cache).row(3)
    entered = [token for token in other.topk_ids[0].tolist() if token not in one.topk_ids[0]]
    assert report["examples"][3]["entered"] == entered
    assert "most shifted" in captured.duet("cache", "diff", plain, captured.cache).output


def test_every_command_that_makes_a_cache_tells_programs_what_it_made(captured: Workspace, tmp_path: Path) -> None:
    url, back, small = (tmp_path / "remote").as_uri(), tmp_path / "back", tmp_path / "small"
    manifest = LogitCache(captured.cache).manifest.model_dump(mode="json")

    def told(*command: object) -> dict[str, object]:
        result = captured.duet("cache", *command, "--json")
        assert result.exit_code == 0, result.output
        answer: dict[str, object] = json.loads(result.stdout)
        return answer

    assert told("push", captured.cache, url) == {"url": url, "manifest": manifest}
    assert told("pull", url, back) == manifest
    assert told("slice", back, "--k", 2, "--out", small) == LogitCache(small).manifest.model_dump(mode="json")
    both = tmp_path / "both"
    assert told("merge", captured.cache, back, "--out", both) == LogitCache(both).manifest.model_dump(mode="json")


def test_a_push_without_text_says_that_it_is_no_anonymisation(captured: Workspace, tmp_path: Path) -> None:
    result = captured.duet("cache", "push", captured.cache, (tmp_path / "remote").as_uri(), "--no-text")

    assert result.exit_code == 0, result.output
    assert "they decode to the queries: this is no anonymisation" in result.output
    assert {row.query for row in LogitCache(tmp_path / "remote").rows()} == {""}
