"""What is wrong with a field, in plain words, in place of pydantic's. Pure.

The command line, the studio, the assistant's tools and the reasons of portable requests all say it in these words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic_core import ErrorDetails

__all__ = ["describe_problem", "problem_place"]

_WORDS: Mapping[str, str] = {
    "missing": "it is missing",
    "bool_parsing": "it must be true or false",
    "bool_type": "it must be true or false",
    "int_parsing": "it must be a whole number",
    "int_type": "it must be a whole number",
    "int_from_float": "it must be a whole number",
    "int_parsing_size": "the number is too large",
    "float_parsing": "it must be a number",
    "float_type": "it must be a number",
    "finite_number": "it must be a finite number",
    "string_type": "it must be text",
    "list_type": "it must be a list",
    "tuple_type": "it must be a list",
    "dict_type": "it must be an object: {{...}}",
    "model_type": "it must be an object: {{...}}",
    "model_attributes_type": "it must be an object: {{...}}",
    "string_pattern_mismatch": "it is not written as it should be (as a regular expression: {pattern})",
    "blank_prompt": "it is blank; say what to generate",
    "extra_forbidden": "there is no such field",
    "reference_type": "it must be a URL or a data URI, as text",
    "url_parsing": "it is not a complete URL",
    "url_scheme": "the URL must begin with {expected_schemes}",
    "literal_error": "it must be {expected}",
    "enum": "it must be {expected}",
    "greater_than": "it must be more than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "multiple_of": "it must be a multiple of {multiple_of}",
    "too_short": "it has {actual_length} entries; at least {min_length} are needed",
    "too_long": "it has {actual_length} entries; at most {max_length} are allowed",
}
"""By pydantic's kind of error. Names in braces are in the error's context."""
_NUMBER_ENDS_IN_ZERO = re.compile(r"(\d)\.0\b")


def describe_problem(item: ErrorDetails) -> str:
    """What is wrong with a field, as a clause: ``"it must be 5, 10 or 15"``.

    Args:
        item: One entry of ``ValidationError.errors()``.
    """
    kind, given, context = item["type"], item.get("input"), item.get("ctx", {})
    if kind in {"string_too_short", "string_too_long"}:
        return _length(given, context)
    if kind == "reference_text":  # its end is advice for Python
        return item["msg"].partition(";")[0]
    words = _WORDS.get(kind)
    if words is None:
        own = re.sub(r"^(Value|Assertion) error, ", "", item["msg"])  # of our own validators, which say it plainly
        text = re.sub(r"^(Input|String|Value|List|Tuple|Set|Dictionary|Data) should ", "it must ", own)
        return f"{text[:1].lower()}{text[1:]}" if text[1:2].islower() else text
    words = words.format_map({name: str(value).replace("'", "") for name, value in context.items()})
    return _NUMBER_ENDS_IN_ZERO.sub(r"\1", words)


def _length(given: object, context: Mapping[str, object]) -> str:
    length = len(given) if isinstance(given, str) else 0
    if "max_length" in context:
        return f"it has {length} characters; at most {context['max_length']} characters are allowed"
    return f"it has {length} characters; at least {context['min_length']} are needed" if length else "it is empty"


def problem_place(item: ErrorDetails) -> str:
    """Where in its field the problem is, such as ``"1.prompt"`` for the prompt of the first shot. Empty: all of it."""
    steps = [str(step + 1) if isinstance(step, int) else str(step) for step in item["loc"][1:]]
    # pydantic names the alternatives of a union, such as "function-before[...]", which are nothing that one wrote.
    return ".".join(step for step in steps if re.fullmatch(r"\w+", step))
