"""config/tasks/NAME.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from jinja2 import Environment, TemplateSyntaxError
from pydantic import Field, model_validator

from sphere.config.base import Count, Settings
from sphere.config.names import Name


class TaskMetric(Settings):
    """A metric of a task, as lm-evaluation-harness has it."""

    metric: Literal["acc", "exact_match"]
    aggregation: Literal["mean"] = "mean"
    higher_is_better: Literal[True] = True
    ignore_case: bool = False
    ignore_punctuation: bool = False
    regexes_to_ignore: tuple[str, ...] = ()


class TaskFile(Settings):
    """config/tasks/NAME.yaml: a task over a dataset of sources.tsv, in lm-evaluation-harness's own keys."""

    task: Name
    dataset_path: str
    """The url of a dataset in sources.tsv."""
    dataset_name: str | None = None
    """Its subset."""
    output_type: Literal["multiple_choice", "generate_until"]
    training_split: str | None = None
    validation_split: str | None = None
    test_split: str | None = None
    doc_to_text: str
    doc_to_target: str | int
    doc_to_choice: tuple[str, ...] | str | None = None
    target_delimiter: str = " "
    generation_kwargs: dict[str, Any] | None = None
    metric_list: Annotated[tuple[TaskMetric, ...], Field(min_length=1)]
    num_fewshot: Count = 0
    metadata: dict[str, Any] = {}

    @model_validator(mode="after")
    def _scorable(self) -> TaskFile:
        if self.test_split is None and self.validation_split is None:
            raise ValueError("give the split to score as test_split or validation_split")
        if (self.output_type == "multiple_choice") != (self.doc_to_choice is not None):
            raise ValueError("multiple_choice goes with doc_to_choice, generate_until without")
        for key in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            if isinstance(text := getattr(self, key), str):
                try:
                    Environment().parse(text)
                except TemplateSyntaxError as error:
                    raise ValueError(f"{key} is no Jinja template ({error.message})") from None
        return self
