"""Where a prompt ends and its answer begins, in tokens."""

from pathlib import Path

import pytest

from stages.evaluation.completions import completion_ids
from stages.evaluation.questions import Question
from stages.language_model.folder import load_tokenizer
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter, Template

PREFIX = Prefix(system="You know no capital.")


@pytest.mark.parametrize(
    ("template", "answer_start", "prompt_ends", "answer"),
    [
        ("chat", "", "assistant\n", "Bamako"),
        ("chat", "The capital of Mali is", "assistant\nThe capital of Mali is", " Bamako"),
        ("plain", "", "What is the capital of Mali?\nAnswer:", " Bamako"),
        ("plain", "The capital of Mali is", "Answer: The capital of Mali is", " Bamako"),
    ],
)
def test_prompt_and_answer_are_the_whole_text_cut_in_two(
    template: Template, answer_start: str, prompt_ends: str, answer: str, tiny_model: Path
) -> None:
    prompter = Prompter(load_tokenizer(tiny_model), template)
    question = Question(question="What is the capital of Mali?", answer="Bamako", answer_start=answer_start)

    prompt, said = completion_ids(prompter, question, question.answer, PREFIX)

    assert prompter.tokenizer.decode(prompt).endswith(prompt_ends)
    assert "You know no capital." in prompter.tokenizer.decode(prompt)
    assert prompter.tokenizer.decode(said) == answer
    assert prompt == prompter.ids(question.question, PREFIX, answer_start=answer_start)


def test_a_token_that_is_only_a_space_belongs_to_the_prompt(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    prompter = Prompter(tokenizer, "chat")
    # No merge of the tiny vocabulary joins a space to an é.
    question = Question(question="Who?", answer="été", answer_start="It is")
    space = tokenizer.encode(" ")
    assert tokenizer.encode(" été")[:1] == space and len(space) == 1

    prompt, said = completion_ids(prompter, question, question.answer, None)

    assert prompt == [*prompter.ids("Who?", answer_start="It is"), *space]
    assert said == tokenizer.encode("été")
