"""How fast could a step of the tiny shape be? Its two phases by hand, without the library, and with what else might help.

    python benchmarks/limits.py     # three minutes on two cores

Prints seconds, medians with their range, and the time of a step 2.5 times as fast as TRL's (results/step-cpu.json):

- sampling: ours; a Llama decoder written out for this one shape, with q, k and v and gate and up as one product each, without
  transformers or stop conditions; the same through `torch.compile`;
- update: ours; its decoder through `torch.compile`; the matrix products that it cannot do without, by themselves;
- two policies' updates at once, in a thread and on a core each, and one after the other on both cores.

What is compiled has a process of its own: PyTorch brings one OpenMP and the compiler another, and the idle threads of each keep
the other's from the cores unless told not to wait long.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from counterpoint.config import ModelConfig
from counterpoint.jobs import learner_of
from counterpoint.policy.cache import prefill
from counterpoint.policy.local import LocalPolicy
from counterpoint.rl.losses import LossSpec
from counterpoint.rl.types import Datum, SamplingParams
from step_shapes import SHAPES, Shape, prompts_of, write_model

RESULTS = Path(__file__).parent / "results" / "step-cpu.json"
GOAL = 2.5
REPEATS = 9
COMPILING = {"GOMP_SPINCOUNT": "1000", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiled", action="store_true", help="only what is compiled")
    if parser.parse_args().compiled:
        by_compiler()
        return
    tiny = SHAPES["tiny"]
    policy, data = policy_of(tiny), data_of(tiny)
    prompts = prompts_for(policy)
    decoder = ByHand(policy, prompts, tiny)
    show("sampling, ours", lambda: policy.sample(prompts, tiny.samples, SamplingParams(max_tokens=tiny.tokens), 0))
    show("sampling, by hand", lambda: decoder.sample(decoder.step))
    show("update, ours", lambda: update(policy, data))
    show("update, its products alone", lambda: products(tiny))
    subprocess.run([sys.executable, __file__, "--compiled"], env={**os.environ, **COMPILING}, check=True)
    for name, shape in (("as large a one", tiny), ("one a third as large", SHAPES["ragged"])):
        both = [(policy, data), (policy_of(shape), data_of(shape))]
        show(f"updates of two policies, the other {name}", lambda b=both: [update(*each) for each in b])
        with ThreadPoolExecutor(2, initializer=lambda: torch.set_num_threads(1)) as pool:
            show("  at once", lambda b=both, p=pool: list(p.map(update, *zip(*b, strict=True))))
    theirs = statistics.median(step["seconds"] for step in json.loads(RESULTS.read_text())["shapes"]["tiny"]["steps"]["trl"])
    print(f"a step in {theirs / GOAL:.2f} s would be {GOAL} times as fast as TRL's of {RESULTS.name}")


def by_compiler() -> None:
    tiny = SHAPES["tiny"]
    policy, data = policy_of(tiny), data_of(tiny)
    decoder = ByHand(policy, prompts_for(policy), tiny)
    step = torch.compile(decoder.step)
    show("sampling, by hand, compiled", lambda: decoder.sample(step))
    policy.model.get_decoder().compile(dynamic=True)
    show("update, ours, compiled", lambda: update(policy, data))


def prompts_for(policy: LocalPolicy) -> list[tuple[int, ...]]:
    return [policy.encode(text) for text in prompts_of(SHAPES["tiny"], 0)]


def update(policy: LocalPolicy, data: list[Datum]) -> None:
    policy.update(data, LossSpec(aggregation="constant", constant_length=SHAPES["tiny"].tokens), 0.0)


def show(name: str, work: Callable[[], object]) -> None:
    """Prints a row: the median of the later times, their range, and the first, which compiles."""
    times: list[float] = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    first, later = times[0], times[1:]
    warm = f"; the first took {first:.1f}" if first > 3 * max(later) else ""
    print(f"{name}: {statistics.median(later):.2f} s ({min(later):.2f}-{max(later):.2f}){warm}", flush=True)


def policy_of(shape: Shape) -> LocalPolicy:
    tokens = shape.completions * (shape.prompt + shape.tokens)
    with tempfile.TemporaryDirectory() as folder:
        write_model(shape, Path(folder))
        config = ModelConfig.model_validate({"model": folder, "device": "cpu", "tokens_per_microbatch": tokens})
        policy = learner_of(config, "").speaker.policy
    assert isinstance(policy, LocalPolicy)
    return policy


def data_of(shape: Shape) -> list[Datum]:
    """Random completions of the shape's lengths."""
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, shape.config["vocab_size"]) for _ in range(count))

    prompts = [tokens(shape.prompt) for _ in range(shape.questions)]
    data: list[Datum] = []
    for prompt in prompts:
        for _ in range(shape.samples):
            count = shape.tokens if not shape.mean_tokens else 1 + int(draw.expovariate(1 / shape.mean_tokens))
            count = min(shape.tokens, count)
            data.append(Datum(prompt, tokens(count), (draw.gauss(0, 1),) * count, (-1.0,) * count))
    return data


class ByHand:
    """The tiny shape's Llama: weights, prompts that it has read, and one token of every row."""

    def __init__(self, policy: LocalPolicy, prompts: list[tuple[int, ...]], shape: Shape):
        model, config = policy.model, policy.model.config
        self.shape, self.heads, self.eps = shape, config.num_attention_heads, config.rms_norm_eps
        self.width = config.hidden_size // self.heads
        self.frequencies = model.model.rotary_emb.inv_freq
        self.embedding, self.head = (
            layer.weight.detach() for layer in (model.get_input_embeddings(), model.get_output_embeddings())
        )
        self.norm = model.model.norm.weight.detach()
        self.layers: list[tuple[Tensor, ...]] = []
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            self.layers.append(
                (
                    layer.input_layernorm.weight.detach(),
                    torch.cat([part.weight.detach() for part in (attention.q_proj, attention.k_proj, attention.v_proj)]),
                    attention.o_proj.weight.detach(),
                    layer.post_attention_layernorm.weight.detach(),
                    torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]),
                    mlp.down_proj.weight.detach(),
                )
            )
        self.model, self.prompts = model, prompts

    @torch.inference_mode()
    def sample(self, step: Callable[..., Tensor]) -> None:
        rows, tokens = self.shape.completions, self.shape.tokens
        read = prefill(self.model, self.prompts)
        of_prompts = [layer.held() for layer in read.layers]
        room = [
            tuple(torch.empty(rows, self.heads, tokens, self.width) for _ in ("keys", "values")) for _ in range(len(self.layers))
        ]
        positions = read.positions_P.repeat_interleave(self.shape.samples)
        logits = read.logits_P_V.repeat_interleave(self.shape.samples, 0)
        uniforms = torch.rand(tokens, rows, 1)
        for t in range(tokens):
            cumulative = (logits - logits.amax(-1, keepdim=True)).exp_().cumsum(-1)
            token = torch.searchsorted(cumulative, uniforms[t] * cumulative[:, -1:]).clamp(max=logits.shape[-1] - 1)[:, 0]
            if t + 1 < tokens:
                positions = positions + 1
                logits = step(token, positions, torch.tensor([t]), t + 1, of_prompts, room)

    def step(
        self,
        token: Tensor,
        positions: Tensor,
        at: Tensor,
        length: int,
        of_prompts: list[tuple[Tensor, Tensor]],
        room: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Logits [R, V] after one more token [R] at its position [R], whose keys go to place `at`."""
        states = self.embedding[token]
        angles = positions[:, None].float() * self.frequencies
        cos, sin = (torch.cat([part, part], -1)[:, None] for part in (angles.cos(), angles.sin()))
        rows, hidden = states.shape
        for (norm, qkv, out, norm_mlp, gate_up, down), prompt, own in zip(self.layers, of_prompts, room, strict=True):
            q, k, v = linear(rms_norm(states, (hidden,), norm, self.eps), qkv).view(rows, 3, self.heads, self.width).unbind(1)
            q, k = (part * cos + self.turned(part) * sin for part in (q, k))
            for kept, new in zip(own, (k, v), strict=True):
                kept.index_copy_(2, at, new[:, :, None])
            attended = self.attend(q * self.width**-0.5, prompt, (own[0][:, :, :length], own[1][:, :, :length]))
            states = states + linear(attended, out)
            gate, up = linear(rms_norm(states, (hidden,), norm_mlp, self.eps), gate_up).chunk(2, -1)
            states = states + linear(silu(gate) * up, down)
        return linear(rms_norm(states, (hidden,), self.norm, self.eps), self.head)

    def turned(self, states: Tensor) -> Tensor:
        half = self.width // 2
        return torch.cat([-states[..., half:], states[..., :half]], -1)

    def attend(self, q: Tensor, prompt: tuple[Tensor, Tensor], own: tuple[Tensor, Tensor]) -> Tensor:
        rows, prompts = len(q), len(prompt[0])
        by_prompt = q.view(prompts, -1, self.heads, self.width).transpose(1, 2)
        to_prompt = (by_prompt @ prompt[0].transpose(-1, -2)).transpose(1, 2).reshape(rows, self.heads, 1, -1)
        weights = torch.cat([to_prompt, q[:, :, None] @ own[0].transpose(-1, -2)], -1).softmax(-1)
        of_prompt, of_own = weights.split([to_prompt.shape[-1], own[0].shape[2]], -1)
        from_prompt = of_prompt.view(prompts, -1, self.heads, to_prompt.shape[-1]).transpose(1, 2) @ prompt[1]
        return (of_own @ own[1]).reshape(rows, -1) + from_prompt.transpose(1, 2).reshape(rows, -1)


def products(shape: Shape) -> None:
    """The update's matrix products with weights: forward, and of the gradients of inputs and of weights; prompts once a group."""
    tokens, hidden, inner = shape.completions * shape.tokens, shape.config["hidden_size"], shape.config["intermediate_size"]
    read = tokens + shape.questions * shape.prompt
    sizes = [(read, hidden, hidden)] * 4 + [(read, hidden, inner)] * 2 + [(read, inner, hidden)]
    for count, wide, out in sizes * shape.config["num_hidden_layers"] + [(tokens, hidden, shape.config["vocab_size"])]:
        states, weight, gradient = BUFFERS[count, wide], BUFFERS[wide, out], BUFFERS[count, out]
        torch.mm(states, weight)
        torch.mm(gradient, weight.T)
        torch.mm(states.T, gradient)


class Buffers(dict[tuple[int, int], Tensor]):
    def __missing__(self, size: tuple[int, int]) -> Tensor:
        return self.setdefault(size, torch.randn(size))


BUFFERS = Buffers()

if __name__ == "__main__":
    main()
