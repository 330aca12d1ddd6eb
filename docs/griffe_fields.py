"""What the API reference says of a field: the words of `setting(...)`, or the comment behind it."""

import ast
import re
from typing import Any

import griffe


class Fields(griffe.Extension):
    """Gives each field its words as a docstring, and its default in place of the call that says both."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **kwargs: Any) -> None:
        """Called by griffe for every attribute that it reads."""
        call = attr.value
        if isinstance(call, griffe.ExprCall) and str(call.function) == "setting":
            default, words, *_ = call.arguments
            attr.value = default
            attr.docstring = griffe.Docstring(ast.literal_eval(str(words)), parent=attr)
        elif attr.docstring is None and (comment := re.search(r"  # ([^#]+)$", attr.source)):
            attr.docstring = griffe.Docstring(comment[1], parent=attr)
