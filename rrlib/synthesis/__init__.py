"""From queries with gold answers to training examples (paper sections 4.1 and B.1).

Steps, one module each: `select` (positives, with the gold answer in view), `assemble` (one window), `rank` (reasoning
and list, gold answer hidden), `filter` (self-consistency). `flow` puts them in order as one generator of questions,
`fates` names what may become of a query. `pipeline.synthesize` asks one teacher, `results` turns the stored answers
into examples, `export` writes them for others; `teacher.store` sees to it that no answer is lost or paid for twice.
"""
