"""Names, order and metric families: the vocabulary that tables, figures and claims share."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sphere.config.names import IN_CONTEXT, PRE_EDITED

ANCHORS = (PRE_EDITED, IN_CONTEXT)
"""Models that no method edited: references in tables and figures, never ranked."""
PROJECTION = "sphere"

ROTATION, SCATTER = "rotate", "scatter"
"""This project's controls: an editor whose energy cannot move, and a post-process that moves it by a set share."""
TWIN = "memit-seq"
"""The method with the rotation's objective, and the solver of the row `scatter`."""

METRICS = ("efficacy", "generalization", "specificity")
FAMILIES = ("success", "accuracy", "token_accuracy", "generation")
STRICT_FAMILIES = {"strict": "bare prompt", "strict_question": "as a question"}
"""Families of whole free answers -> the form in which the prompt was put."""
PORTABILITY = "portability"
"""The family of questions behind an edit, whose metrics are the kinds."""
PORTABILITY_KINDS = {
    "subject_alias": "Subject by another name",
    "two_hop": "Two hops",
    "inverse": "Inverse",
    "unchanged": "Unchanged beside it",
}
BELIEF = "belief"  # the family of log-odds
TEXT_METRICS = ("fluency", "consistency")
TEXT_FAMILY = "text"  # the family under which fluency and consistency are gathered

METHOD_LABELS = {
    PRE_EDITED: "Pre-edited",
    IN_CONTEXT: "In context",
    "ft": "FT",
    "rome": "ROME",
    "memit": "MEMIT",
    "memit-seq": "MEMIT-seq",
    "prune": "PRUNE",
    "rect": "RECT",
    "revive": "REVIVE",
    "encore": "ENCORE",
    "alphaedit": "AlphaEdit",
    PROJECTION: "SPHERE",
}
LATER_LABELS = {
    "evoedit": "EvoEdit",
    "betaedit": "BetaEdit",
    "lyaplock": "LyapLock",
    "locft": "LocFT-BF",
    "crisp": "CRISP",
    ROTATION: "Rotation (control)",
    SCATTER: "scatter (control)",
}
"""Methods of 2025 and 2026, and this project's controls; figures give them a spare look each."""
DATASET_LABELS = {"counterfact": "CounterFact", "zsre": "zsRE"}
FAMILY_LABELS = {
    "success": "success",
    "accuracy": "accuracy",
    "token_accuracy": "token accuracy",
    "generation": "generation",
    "strict": "strict",
    "strict_question": "strict, as a question",
    BELIEF: "log-odds",
    PORTABILITY: "questions behind the edit",
    TEXT_FAMILY: "generated text",
}
SHARE, BITS = "share", "bits_per_byte"
"""Units of general ability: shares of items (higher is better) are averaged and compared, bits a byte (lower) not."""
ABILITY_LABELS = {
    "reasoning": "Reasoning",
    "nli": "NLI",
    "open_qa": "Open-domain QA",
    "open_domain_qa": "Open-domain QA",
    "closed_qa": "Closed-domain QA",
    "closed_domain_qa": "Closed-domain QA",
    "grammar": "Grammar",
    "sentiment": "Sentiment",
    "vocabulary": "Vocabulary",
    "perplexity": "Perplexity",
    "reasoning_zeroshot": "Reasoning, our zero-shot prompt",
    "nli_zeroshot": "NLI, our zero-shot prompt",
    "open_domain_qa_zeroshot": "Open-domain QA, our zero-shot prompt",
    "closed_domain_qa_zeroshot": "Closed-domain QA, our zero-shot prompt",
}


def method_label(name: str) -> str:
    """The name a method carries in print: `memit+sphere` -> `MEMIT + SPHERE`; an unknown name stays as it is.

    `sphere@eta=0.3@alpha=0.5` -> `SPHERE (eta 0.3, alpha 0.5)`.
    """
    base, *settings = name.split("@")
    said = f" ({', '.join(each.replace('=', ' ') for each in settings)})" if settings else ""
    if base == f"alphaedit+{PROJECTION}":
        return METHOD_LABELS[PROJECTION] + said
    return " + ".join((METHOD_LABELS | LATER_LABELS).get(part, part) for part in base.split("+")) + said


def dataset_label(name: str) -> str:
    return DATASET_LABELS.get(name, name)


def ability_label(family: str) -> str:
    return ABILITY_LABELS.get(re.sub(r"[^a-z]+", "_", family.casefold()), family)


def family_label(family: str) -> str:
    return FAMILY_LABELS.get(family, family)


def ordered_methods(names: Iterable[str]) -> list[str]:
    """Unique names in the order of print: pre-edited, then by what they change (`group_of`), SPHERE and controls last.

    Within a group baselines are each followed by what adds to them.
    """
    ranks = {name: rank for rank, name in enumerate(METHOD_LABELS | LATER_LABELS)}

    def key(name: str) -> tuple[int, bool, int, str]:
        base = base_of(name) or name.split("@")[0]
        return GROUPS.index(group_of(name)), is_headline(name), ranks.get(base.split("+")[0], len(ranks)), name

    return sorted(set(names), key=key)


GROUPS = ("", "what is solved", "what is asked for", "what becomes of the update", "what is evaluated", "controls")
"""What methods change, in the order of print; the unedited model changes nothing."""
POSTPROCESSED = {"rect": 3, "revive": 3, "crisp": 3, "prune": 4}
"""Methods that are a post-process on MEMIT -> their group."""


def group_of(name: str) -> str:
    """What a method changes: the solve, the targets, the update or the weights that are evaluated; or a control.

    The projection is what methods are compared with and without, so `memit+sphere` stands where `memit` does.
    """
    if is_anchor(name):
        return GROUPS[0]
    if is_control(name):
        return GROUPS[5]
    if is_headline(name):
        return GROUPS[3]
    parts = (base_of(name) or name.split("@")[0]).split("+")
    later = max([POSTPROCESSED.get(part, 3 if part != parts[0] else 1) for part in parts])
    return GROUPS[2] if later == 1 and "@values." in name else GROUPS[later]


def is_control(name: str) -> bool:
    """True for this project's controls: they answer a question of their own and are nobody's baseline."""
    return bool({ROTATION, SCATTER} & set(name.split("@")[0].split("+")))


def scattered_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """(method, the method whose energy is moved) for all of which both are present."""
    present = ordered_methods(names)
    bases = {name: TWIN if name == SCATTER else name.removesuffix(f"+{SCATTER}") for name in present}
    return [(base, name) for name, base in bases.items() if base != name and base in present]


def is_headline(name: str) -> bool:
    """True for the paper's own method: `sphere`, which is `alphaedit+sphere`."""
    return name in (PROJECTION, f"alphaedit+{PROJECTION}")


def base_of(name: str) -> str | None:
    """The method the projection was added to (`sphere` -> `alphaedit`), or None for one without it."""
    name = name.split("@")[0]
    if name == PROJECTION:
        return "alphaedit"
    parts = name.split("+")
    return "+".join(parts[:-1]) if len(parts) > 1 and parts[-1] == PROJECTION else None


def projected_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """(baseline, baseline with the projection) for every baseline of which both are present, in order of print.

    A method with settings in its name (`sphere@alpha=0.3`) is neither.
    """
    present = {name for name in names if "@" not in name}
    pairs: dict[str, str] = {}
    for name in ordered_methods(present):
        base = base_of(name)
        if base is not None and base in present:
            pairs.setdefault(base, name)
    return [(base, pairs[base]) for base in ordered_methods(pairs)]


def gap_of(family: str) -> str:
    """The family under which accuracy under teacher forcing minus a strict family is gathered."""
    return f"{family}_gap"


def is_anchor(name: str) -> bool:
    """True for a model that no method edited: it stands in tables as a reference and is not ranked."""
    return name in ANCHORS


def is_baseline(name: str) -> bool:
    """True for a method that edits without the projection."""
    return not is_anchor(name) and base_of(name) is None and not is_control(name)


def family_of(dataset: str) -> str:
    """The family of metrics a dataset's columns show unless told otherwise, as in the paper's Table 1."""
    return "token_accuracy" if dataset.casefold().startswith("zsre") else "accuracy"


def paper_name(name: str, known: Iterable[str]) -> str | None:
    """The paper's spelling of a model or method of ours, or None where the paper does not have it.

    `LLaMA3-8B-Instruct`, `llama3_8b` and `meta-llama-3-8b-instruct` are all the paper's `LLaMA3-8B`.
    """
    return next((each for each in known if _bare(each) == _bare(name)), None)


def _bare(name: str) -> str:
    bare = re.sub(r"[^a-z0-9]+", "", name.casefold())
    return bare.removesuffix("instruct").removeprefix("meta")
