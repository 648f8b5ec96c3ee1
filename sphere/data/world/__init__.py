"""The embedded fictional world: people, facts, a corpus, edit records, general-ability tasks, a model trained on them.

Everything follows from ``WorldSettings`` and its seed. Records are in CounterFact's and zsRE's own schemas and tasks
are lm-evaluation-harness YAML over local JSON lines, so everything downstream is the code that reads real datasets.

Disjointness: a person is a *test*, a *tuning* or a *QA* person. Edits touch test and tuning people alone;
facts of QA people are never edited and carry the open-domain questions and zsRE's locality questions.
"""
