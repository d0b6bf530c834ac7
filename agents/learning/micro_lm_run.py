"""One training run of a small language model: step budget, loop, best weights, checkpoints.

Owns the model's shape and how it is optimised. A run is the same for the same pairs, seed and budget, whatever the
clock says, unless the machine is far slower than nominal.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from shoal.agents.learning.micro_lm_pairs import Pair
from shoal.agents.learning.micro_lm_tokens import PAD, Vocabulary
from shoal.agents.learning.slots import Ref
from shoal.agents.learning.training import TrainContext
from shoal.errors import DataError

KIND = "micro_lm"
#: tokens (read and written) per second that training is reckoned with: two CPU cores do 12,000, one 7,000; turns a time limit into a step budget
NOMINAL_TOKENS_PER_S = 9_000
#: share of the time given that steps may take; the rest is for reading, evaluating and writing
STEP_SHARE = 0.8
#: of the time given, what a run that is far slower than nominal may take; one at nominal speed never comes near
CLOCK_SLACK = 1.1
#: passes over the pairs after which models of this size no longer gain on held-out calls
MAX_EPOCHS = 12
#: fewer steps than this are not enough for any task, however few its pairs
MIN_STEPS = 400
#: how far the share of time may run ahead of the share of steps before the clock decides
LAG = 0.15
MAX_TOKENS = 512
BATCH = 32
PEAK_RATE = 3e-3
WARM_STEPS = 30
EVALUATIONS = 10
#: a run that dies loses at most so much; where it goes on from changes nothing in what comes out
KEEP_EVERY_S = 5.0
IGNORED = -100


#: a pair's ids, where its answer begins, and its weight
Sample: TypeAlias = tuple[list[int], int, float]


@dataclass(frozen=True, slots=True)
class Plan:
    """A step budget: the same for the same data, time limit and settings, whatever the clock says."""

    steps: int
    steps_per_epoch: int


def plan_steps(pairs: int, mean_tokens: float, seconds: float) -> Plan:
    """As many steps as `seconds` allow at the nominal speed, at most `MAX_EPOCHS` passes or `MIN_STEPS`."""
    per_epoch = math.ceil(pairs / BATCH)
    affordable = int(seconds * STEP_SHARE * NOMINAL_TOKENS_PER_S / (BATCH * mean_tokens))
    steps = max(1, min(affordable, max(MIN_STEPS, MAX_EPOCHS * per_epoch)))
    return Plan(steps, per_epoch)


def learning_rate(done: float, step: int) -> float:
    """Up over the first steps, then down along a cosine as `done` goes from 0 to 1."""
    warm = min(1.0, (step + 1) / WARM_STEPS)
    return PEAK_RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def encode(pair: Pair, vocabulary: Vocabulary, vary: random.Random | None) -> tuple[list[int], int] | None:
    """A pair's ids and where its answer begins; None where it is too long."""
    carried = frozenset(part.slot for part in pair.answer if isinstance(part, Ref))
    encoded = vocabulary.encode_prompt(pair.prompt, pair.slots, vary, carried)
    if len(encoded.tokens) < len(pair.slots):
        return None
    ids = encoded.ids + vocabulary.encode_answer(pair.answer, encoded)
    return (ids, len(encoded.ids)) if len(ids) <= MAX_TOKENS else None


def model_config(vocabulary: Vocabulary) -> LlamaConfig:
    """The shape of the model: some 0.7 million parameters."""
    return LlamaConfig(
        vocab_size=vocabulary.size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=vocabulary.special[PAD],
        bos_token_id=None,
        eos_token_id=None,
    )


class Run:
    """One training run: model, optimiser, position. Resumes from `context.work` if that holds the same run."""

    def __init__(
        self,
        pairs: list[Pair],
        watched: list[Pair],
        vocabulary: Vocabulary,
        context: TrainContext,
        start: float,
    ) -> None:
        self.vocabulary = vocabulary
        self.context = context
        self.start = start
        self.pairs = [pair for pair in pairs if encode(pair, vocabulary, None)]
        if len(self.pairs) < 0.5 * len(pairs):
            raise DataError(
                f"{1 - len(self.pairs) / len(pairs):.0%} of the calls are longer than {MAX_TOKENS} tokens.",
                remedy="Too long for a model of this size; the task stays with the generalist.",
            )
        lengths = [len(done[0]) for pair in self.pairs if (done := encode(pair, vocabulary, None))]
        self.plan = plan_steps(len(self.pairs), sum(lengths) / len(lengths), context.seconds)
        self.lengths = lengths
        self.watched = [(*done, pair.weight) for pair in watched if (done := encode(pair, vocabulary, None))]
        torch.manual_seed(context.seed)
        self.model = LlamaForCausalLM(model_config(vocabulary))
        self.parameters = sum(weight.numel() for weight in self.model.parameters())
        decayed = [w for w in self.model.parameters() if w.dim() > 1]
        plain = [w for w in self.model.parameters() if w.dim() <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=PEAK_RATE,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0
        #: when this run (or its resumption) began to train, and the share that was done by then
        self.entered = (start, 0.0)
        self.cut = False
        self.best_loss = math.inf
        self.best: dict[str, torch.Tensor] = {}
        self.seen_tokens = 0
        self.checkpoint = context.work / KIND
        self.kept_at = start
        self.mark = self._mark()

    def _mark(self) -> str:
        """Tells this run from any other: a checkpoint of another is not gone on from."""
        digest = hashlib.sha256(repr((self.context.seed, self.plan, self.vocabulary.size)).encode())
        for pair in self.pairs:
            digest.update(repr((pair.answer, pair.weight)).encode())
        return digest.hexdigest()

    def go(self) -> None:
        """All steps of the plan, or as many as the clock allows; the learning rate falls to its end in both cases."""
        self._resume()
        self.entered = (self.context.monotonic(), self.step / self.plan.steps)
        batches = self._batches(self.step)
        done = self._done()
        while done < 1.0:
            if self.context.stopped():
                self._keep()
                raise KeyboardInterrupt
            self._train(next(batches), done)
            self.step += 1
            before, done = done, self._done()
            if int(done * EVALUATIONS) > int(before * EVALUATIONS):
                self._evaluate()
                self._keep()
            elif self.context.monotonic() - self.kept_at >= KEEP_EVERY_S:
                self._keep()
        if not self.best:
            self._evaluate()

    def _done(self) -> float:
        """Share of the run that is behind it: of its steps; of its time once it has fallen far behind nominal speed."""
        entered, share = self.entered
        end = self.start + self.context.seconds * CLOCK_SLACK
        ticked = (self.context.monotonic() - entered) / max(1e-9, end - entered)
        by_clock = min(1.0, share + (1.0 - share) * ticked) if end > entered else 1.0
        by_steps = self.step / self.plan.steps
        if by_steps < 1.0 and by_clock >= min(1.0, by_steps + LAG):
            self.cut = True
        return max(by_clock, by_steps) if self.cut else by_steps

    def save(self, folder: Path) -> None:
        """The best weights and the configuration, in transformers' own form."""
        self.model.config.save_pretrained(folder)
        save_file(_untied(self.best), folder / "model.safetensors", metadata={"format": "pt"})

    def _batches(self, first: int) -> Iterator[list[Sample]]:
        """Batches of similar length, in an order that depends only on the seed; from step `first` on."""
        epoch, skip = divmod(first, self.plan.steps_per_epoch)
        while True:
            rng = random.Random(f"{self.context.seed}/{epoch}")
            order = list(range(len(self.pairs)))
            rng.shuffle(order)
            batches = []
            for at in range(0, len(order), BATCH * 16):
                chunk = sorted(order[at : at + BATCH * 16], key=lambda i: self.lengths[i])
                batches += [chunk[n : n + BATCH] for n in range(0, len(chunk), BATCH)]
            rng.shuffle(batches)
            for batch in batches[skip:]:
                out = [
                    (self.pairs[i].weight, encode(self.pairs[i], self.vocabulary, self._chance(epoch, i)))
                    for i in batch
                ]
                yield [(*done, weight) for weight, done in out if done]
            epoch, skip = epoch + 1, 0

    def _chance(self, epoch: int, pair: int) -> random.Random:
        return random.Random(f"{self.context.seed}/{epoch}/{pair}")

    def _train(self, batch: list[Sample], done: float) -> None:
        self.model.train()
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(done, self.step)
        loss, _ = answer_loss(self.model, batch, self.vocabulary.special[PAD])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.seen_tokens += sum(len(ids) for ids, _, _ in batch)
        if self.step % 10 == 0:
            self.context.progress(
                min(0.99, self.step / self.plan.steps), f"step {self.step} of {self.plan.steps}"
            )

    def _evaluate(self) -> None:
        """Loss per token on `choose`; the best weights so far are kept aside."""
        self.model.eval()
        total, tokens = 0.0, 0.0
        with torch.inference_mode():
            for at in range(0, len(self.watched), BATCH):
                loss, n = answer_loss(self.model, self.watched[at : at + BATCH], self.vocabulary.special[PAD])
                total += float(loss) * n
                tokens += n
        loss_now = total / max(1, tokens)
        if loss_now < self.best_loss or not self.best:
            self.best_loss = loss_now
            self.best = {name: weight.detach().clone() for name, weight in self.model.state_dict().items()}

    def _keep(self) -> None:
        """Write a checkpoint beside the last one and then point to it, so that one is whole whenever the process dies."""
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        moments = {
            f"{number}.{name}": value
            for number, entry in self.optimiser.state_dict()["state"].items()
            for name, value in entry.items()
        }
        tensors = {
            **{f"model/{name}": weight for name, weight in _untied(self.model.state_dict()).items()},
            **{f"best/{name}": weight for name, weight in _untied(self.best).items()},
            **{f"optimiser/{name}": value for name, value in moments.items()},
        }
        path = self.checkpoint / f"step-{self.step}.safetensors"
        save_file(tensors, path)
        data = {
            "mark": self.mark,
            "step": self.step,
            "file": path.name,
            "best_loss": self.best_loss if self.best else None,
            "seen_tokens": self.seen_tokens,
            "cut": self.cut,
        }
        partial = self.checkpoint / "state.partial"
        partial.write_text(json.dumps(data), encoding="utf-8")
        partial.replace(self.checkpoint / "state.json")
        for old in self.checkpoint.glob("step-*.safetensors"):
            if old != path:
                old.unlink()
        self.kept_at = self.context.monotonic()

    def _resume(self) -> None:
        try:
            data: dict[str, Any] = json.loads((self.checkpoint / "state.json").read_text(encoding="utf-8"))
            if data["mark"] != self.mark:
                return
            tensors = load_file(self.checkpoint / str(data["file"]))
            step, best_loss, seen = int(data["step"]), data["best_loss"], int(data["seen_tokens"])
            cut = bool(data["cut"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return
        parts: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = value
        self.model.load_state_dict(_tied(parts["model"]))
        entries: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, value in parts["optimiser"].items():
            number, _, kind = name.partition(".")
            entries[int(number)][kind] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": dict(entries), "param_groups": groups})
        self.step, self.seen_tokens, self.cut = step, seen, cut
        if parts["best"]:
            self.best, self.best_loss = _tied(parts["best"]), float(best_loss)


def _untied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """safetensors refuses to write one tensor under two names."""
    return {name: weight.contiguous() for name, weight in state.items() if name != "lm_head.weight"}


def _tied(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**state, "lm_head.weight": state["model.embed_tokens.weight"]}


def answer_loss(model: LlamaForCausalLM, batch: Sequence[Sample], pad: int) -> tuple[torch.Tensor, float]:
    """Mean loss per answer token of a batch, each token with its sample's weight, and the sum of those weights.

    Padding stands to the right of everything that counts, so causal attention needs no mask for it.
    """
    width = max(len(ids) for ids, _, _ in batch)
    inputs = torch.full((len(batch), width), pad)
    labels = torch.full((len(batch), width), IGNORED)
    for row, (ids, start, _) in enumerate(batch):
        inputs[row, : len(ids)] = torch.tensor(ids)
        labels[row, start - 1 : len(ids) - 1] = torch.tensor(ids[start:])
    hidden = model.model(input_ids=inputs, use_cache=False).last_hidden_state
    counted = labels != IGNORED
    weights = torch.tensor([weight for _, _, weight in batch]).unsqueeze(1).expand_as(labels)[counted]
    losses = torch.nn.functional.cross_entropy(
        model.lm_head(hidden[counted]), labels[counted], reduction="none"
    )
    whole = weights.sum()
    return (losses * weights).sum() / whole, float(whole)
