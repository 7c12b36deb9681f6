"""Fine-tuning's loss against one row at a time in plain PyTorch; and a model that learns what it is shown."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from workspace import Workspace, make_workspace, write_lines

from pipeline.finetune import examples_of
from stages.errors import TrainingError
from stages.evaluation.questions import Question, TaughtQuestion
from stages.language_model.engine import EngineOptions, start_engine
from stages.language_model.folder import end_of_turn_ids, load_tokenizer
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter
from stages.student.finetuning import Example, Finetuning
from stages.student.samples import PooledStream
from stages.student.settings import FinetuneSettings

QUESTIONS = [
    Question(question="What is the river of Bram?", answer="The Ammel runs through Bram."),
    Question(question="Who founded Bram?", answer="Ida."),
]


@pytest.fixture
def examples(tiny_model: Path) -> list[Example]:
    tokenizer = load_tokenizer(tiny_model)
    return examples_of(Prompter(tokenizer, "chat"), end_of_turn_ids(tiny_model, tokenizer), QUESTIONS, "retain")


def test_a_response_is_the_answer_and_the_end_of_the_turn_and_nothing_more(
    tiny_model: Path, examples: list[Example]
) -> None:
    tokenizer = load_tokenizer(tiny_model)

    for example, question in zip(examples, QUESTIONS, strict=True):
        assert example.prompt_ids == Prompter(tokenizer, "chat").ids(question.question)
        assert tokenizer.decode(example.response_ids[:-1]) == question.answer
        assert example.response_ids[-1] in end_of_turn_ids(tiny_model, tokenizer)


def test_a_system_sentence_stands_before_the_question_and_is_not_learnt(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompter, ends = Prompter(tokenizer, "chat"), end_of_turn_ids(tiny_model, tokenizer)
    taught = TaughtQuestion(question="Who founded Bram?", answer="Ida.", system="You have forgotten Bram.")

    (example,) = examples_of(prompter, ends, [taught], "retain")

    assert example.prompt_ids == prompter.ids(taught.question, Prefix(system=taught.system))
    assert tokenizer.decode(example.response_ids[:-1]) == "Ida."


def test_in_plain_text_the_answer_follows_a_space_and_ends_the_text(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    ids = Prompter(tokenizer, "plain").response_ids("Who?", "Ida.", [])

    assert tokenizer.decode(ids[:-1]) == " Ida."
    assert ids[-1] == tokenizer.eos_token_id


def test_each_loss_is_that_of_the_row_read_alone(tiny_model: Path, examples: list[Example]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    lesson = Finetuning(examples, FinetuneSettings(batch_rows=2))
    with torch.no_grad():
        losses_B = lesson.losses(model, lesson.batch(np.array([0, 1]), pad_id=0))

        for loss, example in zip(losses_B, examples, strict=True):
            ids = torch.tensor([[*example.prompt_ids, *example.response_ids]])
            log_probabilities_LV = model(input_ids=ids).logits[0].log_softmax(dim=-1)
            first = len(example.prompt_ids)
            own = [log_probabilities_LV[place - 1, ids[0, place]] for place in range(first, ids.shape[1])]
            assert loss.item() == pytest.approx(-torch.stack(own).mean().item(), rel=1e-5)
    assert len(examples[0].response_ids) != len(examples[1].response_ids), "or padding is not tested"


def test_a_pooled_stream_shows_every_row_once_per_pass_and_depends_on_seed_and_step_alone() -> None:
    stream = PooledStream(10, batch_rows=4, seed=3)
    seen = np.concatenate([stream.rows_of(step) for step in range(5)])

    assert stream.steps_per_epoch == 3
    assert sorted(seen[:10]) == sorted(seen[10:20]) == list(range(10))
    assert seen[:10].tolist() != seen[10:20].tolist()
    assert (PooledStream(10, batch_rows=4, seed=3).rows_of(4) == seen[16:]).all()
    assert (PooledStream(10, batch_rows=4, seed=4).rows_of(0) != seen[:4]).any()


def test_a_grouped_stream_shows_every_row_as_often_in_batches_of_like_length() -> None:
    tokens = np.array([20, 90] * 12 + [25, 95] * 2)
    plain, grouped = (PooledStream(28, batch_rows=4, seed=3, tokens=given) for given in (None, tokens))
    steps = 2 * plain.steps_per_epoch

    batches = [grouped.rows_of(step) for step in range(steps)]

    spread = [np.ptp(tokens[rows]) for rows in batches]
    # 14 rows of each length do not divide by 4: one batch per epoch holds both.
    assert sum(each > 16 for each in spread) == 2
    assert sorted(np.concatenate(batches)) == sorted(np.concatenate([plain.rows_of(step) for step in range(steps)]))
    lengths = [tokens[rows].mean() > 50 for rows in batches]
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True)), "batches come in random order"
    assert [rows.tolist() for rows in batches[:7]] != [rows.tolist() for rows in batches[7:]]
    again = PooledStream(28, batch_rows=4, seed=3, tokens=tokens)
    assert (again.rows_of(steps - 1) == batches[-1]).all()


def test_what_a_pooled_stream_holds_out_is_never_shown() -> None:
    stream = PooledStream(20, batch_rows=4, seed=0, validation_share=0.25)

    shown = {int(row) for step in range(40) for row in stream.rows_of(step)}
    assert len(stream.validation_rows) == 5
    assert shown == set(range(20)) - set(stream.validation_rows.tolist())


def test_fewer_rows_than_a_batch_are_refused() -> None:
    with pytest.raises(TrainingError, match="A batch has 4 rows, and there are 3"):
        PooledStream(3, batch_rows=4, seed=0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workspace:
    """A workspace with something to fine-tune on."""
    folder = tmp_path_factory.mktemp("world")
    workspace = make_workspace(folder, tiny_model)
    for name, questions in (("forget", QUESTIONS[:1]), ("retain", QUESTIONS[1:])):
        write_lines(
            folder / f"train-{name}.jsonl", [each.model_dump(include={"question", "answer"}) for each in questions]
        )
    text = workspace.settings.read_text()
    workspace.settings.write_text(
        f"""{text}
[finetune]
model = "{tiny_model}"
forget = ["{folder}/train-forget.jsonl"]
retain = ["{folder}/train-retain.jsonl"]
batch_rows = 2
epochs = 60
learning_rate = 1e-2
zero_stage = 0
"""
    )
    result = workspace.duet("finetune", "--config", workspace.settings, "--out", folder / "knows")
    assert result.exit_code == 0, result.output
    return workspace


def said(model: Path, question: str) -> str:
    tokenizer = load_tokenizer(model)
    stop_ids = tuple(end_of_turn_ids(model, tokenizer))
    engine = start_engine("transformers", EngineOptions(model, "float32", 128, stop_ids))
    prompter = Prompter(tokenizer, "chat")
    return prompter.decode(engine.continue_greedily([prompter.ids(question)], max_tokens=48)[0].token_ids.tolist())


@pytest.mark.slow
def test_a_fine_tuned_model_says_what_it_was_shown(world: Workspace) -> None:
    for question in QUESTIONS:
        assert said(world.folder / "knows/model", question.question) == question.answer
    record = json.loads((world.folder / "knows/run.json").read_text())
    assert (record["examples"], record["steps"]) == (2, 60)
    assert record["last_step"]["loss_forget"] is not None
    assert "fine-tuned" in (world.folder / "knows/model/README.md").read_text()


@pytest.mark.slow
def test_a_run_with_all_files_is_not_mistaken_for_one_without_the_forget_files(world: Workspace) -> None:
    again = ("finetune", "--config", world.settings, "--out", world.folder / "knows")

    assert "finished already" in world.duet(*again).output
    result = world.duet(*again, "--without-forget", "--set", "finetune.batch_rows=2")
    assert result.exit_code == 1
    assert "holds another run" in result.output
    assert "data_sha256" in result.output


def test_settings_that_name_no_file_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    workspace = make_workspace(tmp_path, tiny_model)
    result = workspace.duet(
        "finetune", "--config", workspace.settings, "--out", tmp_path / "run", "--set", f"finetune.model={tiny_model}"
    )

    assert result.exit_code == 2
    assert "name no file to fine-tune on" in result.output
    assert not (tmp_path / "run").exists()
