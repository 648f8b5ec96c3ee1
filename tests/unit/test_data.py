"""Records of both schemas, real and broken."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sphere.data.records import EditRequest, Probe, load_requests, validate_batch, validate_case_ids
from sphere.errors import InputError

COUNTERFACT = {
    "case_id": 17,
    "pararel_idx": 3,
    "requested_rewrite": {
        "prompt": "{} works as a",
        "relation_id": "P106",
        "target_new": {"str": " nurse ", "id": "Q1"},
        "target_true": {"str": "pilot", "id": "Q2"},
        "subject": "Zoë {Łukasz}",
    },
    "paraphrase_prompts": ['{| class="wikitable"\n! Zoë {Łukasz} earns money as a ', "By trade, Zoë {Łukasz} is a"],
    "neighborhood_prompts": ["Ada works as a", "Ada works as a"],
    "attribute_prompts": ["Ben works as a"],
    "generation_prompts": ["Zoë {Łukasz} is known for"],
}
ZSRE = {
    "subject": "Joseph Irlam",
    "src": "In which war did joseph irlam fight?",
    "pred": "War of 1812",
    "rephrase": "What war was it for Joseph Irlam?",
    "alt": "French and Indian War",
    "answers": [" American Civil War", "Civil War"],
    "loc": "nq question: is jaffa cakes a biscuit or a cake",
    "loc_ans": "Cake",
    "cond": "",
}


@pytest.fixture
def write(tmp_path):
    def put(content, name="records.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return put


def without(record, *path):
    changed = copy.deepcopy(record)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return changed


def changed(record, value, *path):
    result = copy.deepcopy(record)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return result


@pytest.mark.parametrize("name", ["counterfact", "zsre"])
def test_every_real_record_loads(name, sample_data):
    path = sample_data / f"{name}_sample.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    loaded = load_requests(path)
    assert len(loaded.requests) + len(loaded.skipped) == len(records) == 1000
    assert loaded.skipped == ()
    for request in loaded.requests:
        assert request.prompt[request.subject_start : request.subject_end] == request.subject
        assert request.prompt == request.prompt.rstrip()
        assert request.target_new == request.target_new.strip() != ""
        assert all(probe.prompt.strip() and probe.target.strip() for probe in request.neighborhood)
    assert len({request.case_id for request in loaded.requests}) == 1000
    for start in range(0, 1000, 100):
        validate_batch(loaded.requests[start : start + 100])


def test_counterfact_fields(write):
    (request,) = load_requests(write([COUNTERFACT])).requests
    assert request == EditRequest(
        case_id=17,
        subject="Zoë {Łukasz}",
        prompt="Zoë {Łukasz} works as a",
        subject_start=0,
        target_new="nurse",
        target_true="pilot",
        paraphrases=('{| class="wikitable"\n! Zoë {Łukasz} earns money as a', "By trade, Zoë {Łukasz} is a"),
        neighborhood=(Probe("Ada works as a", "pilot"), Probe("Ada works as a", "pilot")),
        generation_prompts=("Zoë {Łukasz} is known for",),
        relation="P106",
    )


def test_zsre_fields(write):
    (request,) = load_requests(write([ZSRE])).requests
    assert request == EditRequest(
        case_id=0,
        subject="joseph irlam",  # as the prompt spells it
        prompt="In which war did joseph irlam fight?",
        subject_start=17,
        target_new="American Civil War",
        target_true=None,
        paraphrases=("What war was it for Joseph Irlam?",),
        neighborhood=(Probe("nq question: is jaffa cakes a biscuit or a cake?", "Cake"),),
        aliases=("Civil War",),
    )


def test_a_locality_question_keeps_its_own_question_mark(write):
    (request,) = load_requests(write([changed(ZSRE, "Who is he?", "loc")])).requests
    assert request.neighborhood[0].prompt == "Who is he?"


def test_literal_spelling_is_found_before_other_cases(write):
    record = changed(changed(ZSRE, "Ann", "subject"), "Was ann or Ann first?", "src")
    assert load_requests(write([record])).requests[0].subject_start == 11


def test_objects_keep_their_other_names(write):
    named = {"str": "nurse", "id": "Q1", "aliases": ["a nurse ", "caregiver"]}
    record = changed(COUNTERFACT, named, "requested_rewrite", "target_new")
    (request,) = load_requests(write([record])).requests
    assert request.aliases == ("a nurse", "caregiver")
    assert {probe.aliases for probe in request.neighborhood} == {()}
    record = changed(COUNTERFACT, {"str": "pilot", "aliases": ["airman"]}, "requested_rewrite", "target_true")
    (request,) = load_requests(write([record])).requests
    assert (request.aliases, {probe.aliases for probe in request.neighborhood}) == ((), {("airman",)})
    record = changed(COUNTERFACT, {"str": "pilot", "aliases": "airman"}, "requested_rewrite", "target_true")
    with pytest.raises(InputError, match=r"target_true: \"aliases\" is str, not a list"):
        load_requests(write([record]))


def test_in_context_every_prompt_begins_with_the_new_fact(write):
    (request,) = load_requests(write([COUNTERFACT])).requests
    told = request.in_context()
    fact = "Zoë {Łukasz} works as a nurse. "
    assert told.prompt == fact + request.prompt
    assert told.prompt[told.subject_start : told.subject_end] == request.subject
    assert told.subject_start > len(fact) - 1
    assert [probe.prompt for probe in told.neighborhood] == [fact + probe.prompt for probe in request.neighborhood]
    assert told.paraphrases == tuple(fact + prompt for prompt in request.paraphrases)
    assert (told.target_new, told.target_true) == (request.target_new, request.target_true)


def test_questions_behind_an_edit(write, capsys):
    asked = [
        {"kind": "two_hop", "prompt": "Ada's work is done in a ", "target": " hospital", "aliases": ["clinic"]},
        {"kind": "unchanged", "prompt": "Ada lives in", "target": "Oslo"},
    ]
    (request,) = load_requests(write([{**COUNTERFACT, "portability": asked}])).requests
    hop, stays = Probe("Ada's work is done in a", "hospital", ("clinic",)), Probe("Ada lives in", "Oslo")
    assert request.portability == (("two_hop", hop), ("unchanged", stays))
    assert request.in_context().portability[1][1].prompt == "Zoë {Łukasz} works as a nurse. Ada lives in"
    assert capsys.readouterr().err == ""
    for wrong, line in (
        ([{**asked[0], "kind": "two_hops"}], "portability 0: kind 'two_hops' is none of .* did you mean 'two_hop'"),
        ([{"kind": "inverse", "prompt": "x"}], 'portability 0: no "target"'),
        ("Oslo", '"portability" must be a list of objects'),
    ):
        with pytest.raises(InputError, match=line):
            load_requests(write([{**COUNTERFACT, "portability": wrong}]))


def test_only_what_an_edit_needs_is_required(write):
    minimal = {"requested_rewrite": {"prompt": "{} is a", "subject": "Ada", "target_new": {"str": "nurse"}}}
    (request,) = load_requests(write([minimal])).requests
    assert (request.case_id, request.target_true, request.paraphrases, request.neighborhood) == (0, None, (), ())
    (question,) = load_requests(write([{"src": "Who is Ada?", "subject": "Ada", "answers": ["a nurse"]}])).requests
    assert (question.paraphrases, question.neighborhood) == ((), ())


REWRITE = "requested_rewrite"
UNUSABLE = {
    "a subject elsewhere": (changed(ZSRE, "Someone Else", "subject"), "its subject is not in its prompt"),
    "no subject": (changed(ZSRE, " ", "subject"), 'its "subject" is empty'),
    "no answer": (changed(ZSRE, [], "answers"), 'its "answers" is empty'),
    "an empty answer": (changed(ZSRE, [" "], "answers"), 'its "answers" is empty'),
    "no rephrasing": (changed(ZSRE, "", "rephrase"), 'its "rephrase" is empty'),
    "no unrelated answer": (changed(ZSRE, "", "loc_ans"), 'its "loc_ans" is empty'),
    "half a character": (changed(ZSRE, "joseph irlam \ud800", "src"), "it holds half of a surrogate pair"),
    "half an unread one": (changed(COUNTERFACT, "\ud800", REWRITE, "relation_id"), "it holds half of a surrogate pair"),
    "agreeing targets": (changed(COUNTERFACT, "pilot", REWRITE, "target_new", "str"), "the new target is the true one"),
    "an empty target": (changed(COUNTERFACT, "  ", REWRITE, "target_new", "str"), 'its "target_new" is empty'),
    "no braces": (changed(COUNTERFACT, "Ada is a", REWRITE, "prompt"), 'its prompt does not hold "{}" exactly once'),
    "two braces": (changed(COUNTERFACT, "{} {} is", REWRITE, "prompt"), 'its prompt does not hold "{}" exactly once'),
    "an empty paraphrase": (changed(COUNTERFACT, ["a", ""], "paraphrase_prompts"), 'its "paraphrase_prompts" is empty'),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_records_are_skipped_with_a_reason(name, write):
    record, reason = UNUSABLE[name]
    usable = COUNTERFACT if REWRITE in record else ZSRE
    loaded = load_requests(write([usable, record, record]))
    assert len(loaded.requests) == 1
    assert [why for _, why in loaded.skipped] == [reason, reason]
    assert loaded.reasons() == f"2 because {reason}"
    with pytest.raises(InputError, match=r"none of its 1 records is usable: 1 because ") as caught:
        load_requests(write([record]))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_subject_that_stands_in_its_prompt_needs_no_braces(write):
    record = changed(COUNTERFACT, "By trade, Zoë {Łukasz} is a", REWRITE, "prompt")
    (request,) = load_requests(write([record])).requests
    assert (request.prompt, request.subject_start) == ("By trade, Zoë {Łukasz} is a", 10)


def test_duplicated_prompts_load(write):
    assert len(load_requests(write([ZSRE, ZSRE])).requests) == 2


@pytest.mark.parametrize(
    "content",
    [
        [{"relation_id": "P106", "target_id": "Q1", "samples": [{"text": "A nurse helps."}, {"text": "Nurses."}]}],
        {"P106": {"Q1": [{"text": "A nurse helps."}, {"text": "Nurses."}], "Q2": [{"text": "A pilot."}]}},
    ],
)
def test_references_are_matched_on_relation_and_new_object(content, write):
    references = write(content, "references.json")
    other = changed(COUNTERFACT, "Q9", "requested_rewrite", "target_new", "id")
    matched, unmatched = load_requests(write([COUNTERFACT, other]), references=references).requests
    assert matched.references == ("A nurse helps.", "Nurses.")
    assert unmatched.references == ()


def test_broken_references_are_refused(write):
    references = write([{"relation_id": "P1", "target_id": "Q1", "samples": "text"}], "references.json")
    with pytest.raises(InputError, match=r'references.json: record 0: "samples"'):
        load_requests(write([COUNTERFACT]), references=references)


BROKEN = {
    "empty file": ("", "is empty"),
    "only space": (" \n", "is empty"),
    "not JSON": ("[{]", "is not JSON \\(line 1"),
    "an object": (COUNTERFACT, "put its records in a list"),
    "no record": ([], "empty list"),
    "a record of text": ([COUNTERFACT, "text"], "record 1 is a JSON str"),
    "unknown schema": ([{"prompt": "Ada is"}], "record 0 is neither CounterFact .* nor zsRE"),
    "mixed schemas": ([COUNTERFACT, ZSRE], "mixed"),
    "no subject": ([without(COUNTERFACT, REWRITE, "subject")], 'record 0 \\(case 17\\).*no "subject"'),
    "no prompt": ([without(COUNTERFACT, REWRITE, "prompt")], 'no "prompt"'),
    "no new target": ([without(COUNTERFACT, REWRITE, "target_new")], 'no "target_new" object'),
    "a bare target": ([changed(COUNTERFACT, "nurse", REWRITE, "target_new")], 'no "target_new" object'),
    "no target text": ([without(COUNTERFACT, REWRITE, "target_new", "str")], 'no "target_new" object with a "str"'),
    "a number as target": ([changed(COUNTERFACT, 7, REWRITE, "target_new", "str")], '"target_new" is int, not text'),
    "rewrite of text": ([changed(COUNTERFACT, "text", REWRITE)], "is not an object"),
    "no true target for neighbours": ([without(COUNTERFACT, REWRITE, "target_true")], 'no "target_true"'),
    "paraphrases of text": ([changed(COUNTERFACT, "text", "paraphrase_prompts")], "not a list"),
    "NaN in what nothing reads": ('[{"requested_rewrite": {}, "mine": NaN}]', "NaN is not a finite number"),
    "a number too large": ('[{"requested_rewrite": {}, "mine": 1e999}]', "1e999 is not a finite number"),
    "a line break in an id": ([changed(COUNTERFACT, "a\nb", "case_id")], r"record 0 \(case 'a\\nb'\).*not an integer"),
    "case id of text": ([changed(COUNTERFACT, "17", "case_id")], "not an integer"),
    "no answers": ([without(ZSRE, "answers")], "neither"),
    "an answer of no text": ([changed(ZSRE, [7], "answers")], '"answers" is int, not text'),
    "a question without answer": ([without(ZSRE, "loc_ans")], 'no "loc_ans"'),
    "an answer without question": ([without(ZSRE, "loc")], 'no "loc"'),
}


MISPLACED = [
    (changed(COUNTERFACT, ["x"], REWRITE, "paraphrase_prompts"), "requested_rewrite", "a CounterFact record"),
    (changed(COUNTERFACT, "x", "rephrase"), "a CounterFact record", "a zsRE record"),
    (changed(COUNTERFACT, "x", "prompt"), "a CounterFact record", "requested_rewrite or a portability question"),
    (
        changed(COUNTERFACT, 3, REWRITE, "target_true", "case_id"),
        "target_true",
        "a CounterFact record or a zsRE record",
    ),
    (changed(ZSRE, ["x"], "paraphrase_prompts"), "a zsRE record", "a CounterFact record"),
]


@pytest.mark.parametrize(("record", "there", "owner"), MISPLACED)
def test_a_key_in_the_wrong_place_says_where_it_belongs(record, there, owner, write):
    case = " (case 17)" if REWRITE in record else ""
    with pytest.raises(InputError) as caught:
        load_requests(write([record]))
    assert re.search(rf"records.json: record 0{re.escape(case)}: '\w+' stands in .*{there} ", str(caught.value))
    assert str(caught.value).endswith(f" but belongs in {owner}: move it or drop it")


def test_what_copies_of_zsre_bring_along_is_taken(write):
    samples = [{"subject": "a question", "prompt": "{}?"}]
    assert load_requests(write([changed(ZSRE, samples, "neighborhood_samples")])) == load_requests(write([ZSRE]))


@pytest.mark.parametrize(("key", "meant"), [("STR", "str"), ("ID", "id")])
def test_a_misspelt_key_of_a_target_is_named(key, meant, write):
    record = changed(COUNTERFACT, "x", REWRITE, "target_new", key)
    with pytest.raises(InputError, match=rf"record 0 \(case 17\): unknown key '{key}': did you mean '{meant}'"):
        load_requests(write([record]))


@pytest.mark.parametrize("name", BROKEN)
def test_broken_input_is_one_line_that_names_the_file_and_the_fault(name, write):
    content, message = BROKEN[name]
    with pytest.raises(InputError, match=message) as caught:
        load_requests(write(content))
    assert "records.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere.json cannot be read"):
        load_requests(tmp_path / "nowhere.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_requests(tmp_path)
    (tmp_path / "latin.json").write_bytes('[{"src": "é"}]'.encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        load_requests(tmp_path / "latin.json")


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "bom.json").write_text(json.dumps([ZSRE]), encoding="utf-8-sig")
    assert len(load_requests(tmp_path / "bom.json").requests) == 1


visible = st.text(st.characters(exclude_categories=("Cs", "Cc"))).filter(lambda text: text.strip())


@given(before=st.text(st.characters(exclude_characters="{}", exclude_categories=("Cs",))), subject=visible)
def test_a_subject_is_found_where_its_template_put_it(before, subject, tmp_path_factory):
    path = tmp_path_factory.mktemp("property") / "records.json"
    rewrite = {"prompt": before + "{} is", "subject": subject, "target_new": {"str": "x"}}
    path.write_text(json.dumps([{"requested_rewrite": rewrite}]), encoding="utf-8")
    (request,) = load_requests(path).requests
    assert request.subject_start == len(before)
    assert request.prompt[request.subject_start : request.subject_end] == request.subject == subject.strip()


def test_a_stream_may_not_repeat_a_case_and_a_batch_not_contradict_itself(write):
    first = load_requests(write([COUNTERFACT])).requests[0]
    same = [first, replace(first, case_id=18)]  # the same edit twice is odd, but can be satisfied
    validate_case_ids(same)
    validate_batch(same)
    with pytest.raises(InputError, match="case 17 appears twice"):
        validate_case_ids([first, first])
    with pytest.raises(InputError, match="cases 17 and 18 contradict each other"):
        validate_batch([first, replace(first, case_id=18, target_new="baker")])
