"""A question and an answer in; token ids of the prompt, and of the answer that completes it, out."""

from stages.evaluation.questions import Question
from stages.language_model.engine import shared_length
from stages.language_model.prefix import Prefix
from stages.language_model.prompts import Prompter


def completion_ids(
    prompter: Prompter, question: Question, answer: str, prefix: Prefix | None
) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of the answer behind it, cut where the tokenizer cuts the two written as one text.

    The prompt is the question through the template, and behind it the question's own `answer_start` where it has one:
    an answer often begins "The capital of …", so without that start the name is not what is expected next, however well
    the model knows it. A first token that is nothing but a space goes to the prompt: it says nothing of the name.
    """
    text = prompter.text(question.question, prefix, answer_start=question.answer_start)
    # A chat template ends where the answer's first word stands; after words or a colon a space comes first.
    gap = " " if question.answer_start or prompter.template == "plain" else ""
    before, whole = (
        list(prompter.tokenizer.encode(each, add_special_tokens=prompter.template == "plain"))
        for each in (text, f"{text}{gap}{answer}")
    )
    cut = shared_length([before, whole])
    while cut < len(whole) - 1 and not str(prompter.tokenizer.decode(whole[cut : cut + 1])).strip():
        cut += 1
    return whole[:cut], whole[cut:]
