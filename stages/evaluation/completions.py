"""A question and an answer in; token ids of the prompt, and of the answer that completes it, out."""

from stages.evaluation.questions import Question
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
    if question.answer_start:
        text, gap = prompter.text(question.question, prefix, answer_start=question.answer_start), " "
    else:
        text, gap = prompter.text(question.question, prefix), prompter.gap
    before, said = prompter.completion_ids(text, f"{gap}{answer}")
    while len(said) > 1 and not str(prompter.tokenizer.decode(said[:1])).strip():
        before, said = [*before, said[0]], said[1:]
    return before, said
