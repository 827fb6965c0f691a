"""The two stages of training (paper section 4.2): `sft.train_sft`, then `grpo.train_grpo`.

Thin over TRL's trainers; what is ours are the checks before work starts and the settings, because most of TRL's
defaults are wrong for this method and some are wrong in silence.
"""

from rrlib.patches import hush_triton

hush_triton()
