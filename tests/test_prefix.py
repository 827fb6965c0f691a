"""The CPU decoder against transformers' own `generate`: the same greedy tokens, the same sampling filters."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rrlib.engines.prefix import Sampling, answer_logprobs, decode, pick, supports

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
MODELS = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8)),
    "qwen2, biases": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES, num_key_value_heads=4)),
    "llama, one group": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, num_key_value_heads=1)),
}
PROMPTS = [[5, 6, 7], [8, 9, 10, 11, 12, 13, 14], [15], [16, 17, 18, 19], [20, 21]]


def wide(model):
    """Weights large enough that greedy choices differ from prompt to prompt and some answers end early."""
    torch.manual_seed(3)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def reference(model, prompts, new):
    rows = []
    for prompt in prompts:
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]), max_new_tokens=new, do_sample=False, eos_token_id=[1, 2, 3], pad_token_id=0
            )
        rows.append(out[0, len(prompt) :].tolist())
    return rows


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_are_those_of_generate(name):
    model = wide(MODELS[name]())
    assert supports(model)
    expected = reference(model, PROMPTS, 24)
    assert len({len(row) for row in expected}) > 1, "the case must hold answers that end early"
    assert decode(model, PROMPTS, max_new_tokens=24, eos=[1, 2, 3]) == expected
    trebled = [row for row in expected for _ in range(3)]
    assert decode(model, PROMPTS, copies=3, max_new_tokens=24, eos=[1, 2, 3]) == trebled


def test_the_model_is_left_as_it_was():
    model = wide(MODELS["qwen3"]()).train()
    before = model.config._attn_implementation
    decode(model, PROMPTS, max_new_tokens=2, eos=[1])
    assert model.training and model.config._attn_implementation == before
    loss = model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss
    loss.backward()  # nothing of inference mode is left in the parameters
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_sampling_follows_the_models_distribution():
    model = wide(MODELS["qwen3"]())
    prompt = PROMPTS[1]
    with torch.inference_mode():
        wanted = model(torch.tensor([prompt])).logits[0, -1].div(2.0).softmax(-1)
    drawn = decode(
        model,
        [prompt],
        copies=4000,
        max_new_tokens=1,
        eos=[1],
        sampling=Sampling(temperature=2.0),
        generator=torch.Generator().manual_seed(0),
    )
    share = torch.bincount(torch.tensor([row[0] for row in drawn]), minlength=50) / 4000
    assert float((share - wanted).abs().max()) < 0.04


def test_one_seed_one_draw():
    model = wide(MODELS["qwen3"]())
    draws = [
        decode(
            model,
            PROMPTS,
            copies=2,
            max_new_tokens=8,
            eos=[1],
            sampling=Sampling(1.0),
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (4, 4, 5)
    ]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("top_k, top_p", [(3, 1.0), (0, 0.5), (4, 0.7), (50, 0.05)])
def test_filters_keep_what_transformers_keeps(top_k, top_p):
    from transformers import TopKLogitsWarper, TopPLogitsWarper

    torch.manual_seed(1)
    scores = torch.randn(6, 30) * 2
    kept = scores
    if top_k:
        kept = TopKLogitsWarper(min(top_k, 30))(None, kept)
    if top_p < 1:
        kept = TopPLogitsWarper(top_p)(None, kept)
    allowed = [set(torch.isfinite(row).nonzero().squeeze(1).tolist()) for row in kept]
    seen = [set() for _ in allowed]
    generator = torch.Generator().manual_seed(2)
    for _ in range(400):
        for row, token in enumerate(pick(scores, Sampling(1.0, top_p, top_k), generator).tolist()):
            seen[row].add(token)
    assert all(got <= may for got, may in zip(seen, allowed, strict=True))
    assert sum(map(len, seen)) >= 0.7 * sum(map(len, allowed))


def test_models_it_does_not_know_are_left_to_generate():
    config = Qwen3Config(**SIZES, num_key_value_heads=2, head_dim=8, use_sliding_window=True, sliding_window=8)
    config.layer_types = ["sliding_attention", "full_attention"]
    assert not supports(Qwen3ForCausalLM(config))


def rollout_batch():
    """Three rows of one prompt and two of others, prompts padded on the left, answers on the right."""
    torch.manual_seed(5)
    ids = torch.randint(4, 50, (6, 13))
    ids[1, :7], ids[2, :7] = ids[0, :7], ids[0, :7]
    mask = torch.ones_like(ids)
    mask[:3, :2] = 0
    mask[2, 10:] = 0
    mask[5, 12:] = 0
    return ids * mask, mask


@pytest.mark.parametrize("name", MODELS)
def test_log_probabilities_and_gradients_are_those_of_one_plain_forward_pass(name):
    model, answer = wide(MODELS[name]()), 6
    ids, mask = rollout_batch()
    real = mask[:, -answer:].bool()
    logprobs = (model(input_ids=ids, attention_mask=mask).logits / 1.3).log_softmax(-1)
    wanted = logprobs[:, :-1].gather(2, ids[:, 1:, None]).squeeze(2)[:, -answer:]
    spread = -(logprobs.exp() * logprobs).sum(-1)[:, :-1][:, -answer:]
    got, entropy = answer_logprobs(model, ids, mask, answer, temperature=1.3, entropy=True)
    assert torch.allclose(got[real], wanted[real], atol=1e-5) and torch.allclose(entropy[real], spread[real], atol=1e-5)
    assert not got[~real].any()
    weights = list(model.parameters())
    plain = torch.autograd.grad(wanted[real].pow(2).sum(), weights)
    shared = torch.autograd.grad(got[real].pow(2).sum(), weights)
    for one, other in zip(plain, shared, strict=True):
        assert float((one - other).abs().max()) <= 1e-4 * max(1.0, float(one.abs().max()))


def test_an_answer_of_one_token():
    model = wide(MODELS["qwen3"]())
    ids, mask = rollout_batch()
    ids, mask = ids[:, :8], mask[:, :8]
    wanted = model(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)[:, -2].gather(1, ids[:, -1:])
    assert torch.allclose(answer_logprobs(model, ids, mask, 1)[0], wanted, atol=1e-5)
