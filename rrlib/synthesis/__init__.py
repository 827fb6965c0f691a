"""From queries with gold answers to training examples (paper sections 4.1 and B.1).

Steps, one module each: `select` (positives, with the gold answer in view), `assemble` (one window), `rank` (reasoning
and list, gold answer hidden), `filter` (self-consistency); `pipeline.synthesize` drives them over one teacher, and
`store` sees to it that no answer is lost or paid for twice.
"""
