"""One LoRA run: low-rank weights beside a pretrained model's own (Hu et al. 2021, arXiv 2106.09685), which stay as they are.

Owns the step budget, the loop, early stopping and the checkpoints. A run is the same for the same pairs, seed and budget, whatever the
clock says, unless the machine is far slower than nominal; one that was killed goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from shoal.agents.learning.bases import Fit
from shoal.agents.learning.training import TrainContext

KIND = "lora"
#: floating-point operations that training does per second: two CPU cores in bf16, and one GPU; they turn a time limit into steps
NOMINAL_CPU_FLOPS = 4e10
NOMINAL_GPU_FLOPS = 2e13
#: operations per weight and token: forwards, and backwards through frozen weights; once more forwards where activations are not kept
_FLOPS_EACH = 4.0
#: no model is so small that more tokens than this go through it in a second
_MOST_TOKENS_PER_S = 8_000.0
STEP_SHARE = 0.8
#: of the time given, what a run that is far slower than nominal may take
CLOCK_SLACK = 1.1
EVALUATIONS = 12
#: so many looks at `choose` without a better one end the run
PATIENCE = 3
_IGNORED = -100
_STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """How the low-rank weights are shaped and trained.

    Attributes:
        rate: the highest learning rate for a model 2,048 wide; narrower ones get more, in proportion, up to `most_rate`.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    batch: int = 16
    epochs: int = 4
    min_steps: int = 60
    rate: float = 2e-4
    most_rate: float = 1e-2

    def peak(self, hidden: int) -> float:
        return min(self.most_rate, self.rate * 2048 / hidden)


@dataclass(frozen=True, slots=True)
class Pair:
    """A call as tokens: prompt and answer, and where the answer begins."""

    ids: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A step budget: the same for the same data, time limit and settings, whatever the clock says."""

    steps: int
    steps_per_epoch: int


def plan_steps(
    pairs: Sequence[Pair], seconds: float, parameters: int, settings: LoraSettings, *, gpu: bool, twice: bool
) -> Plan:
    """As many steps as `seconds` allow at nominal speed, at most `epochs` passes or `min_steps`. `twice`: activations are not kept."""
    flops = NOMINAL_GPU_FLOPS if gpu else NOMINAL_CPU_FLOPS
    each = parameters * (_FLOPS_EACH + (2.0 if twice else 0.0))
    speed = min(_MOST_TOKENS_PER_S * (50 if gpu else 1), flops / each)
    mean = sum(len(p.ids) for p in pairs) / len(pairs)
    per_epoch = math.ceil(len(pairs) / settings.batch)
    affordable = int(seconds * STEP_SHARE * speed / (settings.batch * mean))
    most = max(settings.min_steps, settings.epochs * per_epoch)
    return Plan(max(1, min(affordable, most)), per_epoch)


def with_adapter(base: Any, adapter: LoraConfig, name: str) -> PeftModel:
    """Put fresh low-rank weights beside those of `base`, which is changed."""
    with warnings.catch_warnings():
        # PEFT asks for an attribute by its old name
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        return PeftModel(base, adapter, adapter_name=name)


def _forget_activations(base: Any) -> None:
    """Have activations computed again on the way back. transformers 5 changed the name of that on its way."""
    if hasattr(base, "activation_checkpointing_enable"):
        base.activation_checkpointing_enable({"use_reentrant": False})
    else:
        base.gradient_checkpointing_enable({"use_reentrant": False})


class LoraRun:
    """One run over `base`, which it changes into a model with low-rank weights. Resumes from `context.work` if that holds the same run."""

    def __init__(
        self,
        base: Any,
        pairs: Sequence[Pair],
        watched: Sequence[Pair],
        *,
        plan: Plan,
        fit: Fit,
        settings: LoraSettings,
        context: TrainContext,
        mark: str,
        pad: int,
    ) -> None:
        self.pairs, self.watched = list(pairs), list(watched)
        self.plan, self.fit, self.settings, self.context, self.pad = plan, fit, settings, context, pad
        self.device = next(base.parameters()).device
        torch.manual_seed(context.seed)
        self.adapter = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules="all-linear",
            bias="none",
            task_type="CAUSAL_LM",
        )
        base.config.use_cache = False
        if fit.checkpointing:
            _forget_activations(base)
            base.enable_input_require_grads()
        self.model = with_adapter(base, self.adapter, "default")
        self.inner = self.model.get_base_model()
        self.trained = {n: w for n, w in self.model.named_parameters() if w.requires_grad}
        self.peak = settings.peak(int(base.config.hidden_size))
        self.optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=self.peak, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.step = 0
        self.entered = (context.monotonic(), 0.0)
        self.started = self.entered[0]
        self.cut = False
        self.stopped_early = False
        self.best_loss = math.inf
        self.best: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []
        self.checkpoints = context.work / KIND
        facts = (context.seed, plan, fit, settings, mark, pad)
        digest = hashlib.sha256(repr(facts).encode())
        for pair in self.pairs:
            digest.update(repr(pair).encode())
        self.mark = digest.hexdigest()

    def go(self) -> None:
        """All steps of the plan, or until `choose` gains no more, or as many as the clock allows."""
        self._resume()
        self.entered = (self.context.monotonic(), self.step / self.plan.steps)
        batches = self._batches(self.step)
        done = self._done()
        while done < 1.0 and not self.stopped_early:
            if self.context.stopped():
                self._keep()
                raise KeyboardInterrupt
            self._train(next(batches), done)
            self.step += 1
            before, done = done, self._done()
            if int(done * EVALUATIONS) > int(before * EVALUATIONS):
                self._evaluate()
                self._keep()
        if not self.best:
            self._evaluate()

    def weights(self) -> dict[str, torch.Tensor]:
        """The best low-rank weights, under PEFT's names."""
        return {name: weight.contiguous() for name, weight in self.best.items()}

    def _done(self) -> float:
        """Share of the run that is behind it: of its steps, or of its time where it is far slower than nominal."""
        entered, share = self.entered
        end = self.started + self.context.seconds * CLOCK_SLACK
        ticked = (self.context.monotonic() - entered) / max(1e-9, end - entered)
        by_clock = min(1.0, share + (1.0 - share) * ticked) if end > entered else 1.0
        by_steps = self.step / self.plan.steps
        self.cut = self.cut or by_clock > by_steps
        return max(by_clock, by_steps)

    def _batches(self, first: int) -> Iterator[list[Pair]]:
        """Batches of similar length, in an order that depends only on the seed; from step `first` on."""
        size = self.settings.batch
        epoch, skip = divmod(first, self.plan.steps_per_epoch)
        while True:
            rng = random.Random(f"{self.context.seed}/{epoch}")
            order = list(range(len(self.pairs)))
            rng.shuffle(order)
            batches = []
            for at in range(0, len(order), size * 16):
                chunk = sorted(order[at : at + size * 16], key=lambda i: len(self.pairs[i].ids))
                batches += [chunk[n : n + size] for n in range(0, len(chunk), size)]
            rng.shuffle(batches)
            for batch in batches[skip:]:
                yield [self.pairs[i] for i in batch]
            epoch, skip = epoch + 1, 0

    def _train(self, batch: Sequence[Pair], done: float) -> None:
        self.model.train()
        # dropout is drawn anew for each step, so that a resumed run draws what an undisturbed one would have
        torch.manual_seed(self.context.seed * 1_000_003 + self.step)
        warm = min(1.0, (self.step + 1) / max(1, min(20, self.plan.steps // 10)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
        self.optimiser.zero_grad(set_to_none=True)
        counted = sum(len(p.ids) - p.start for p in batch)
        for at in range(0, len(batch), self.fit.rows):
            part = batch[at : at + self.fit.rows]
            (self._loss(part) / counted).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        self.optimiser.step()
        self.context.progress(
            min(0.99, self.step / self.plan.steps), f"step {self.step + 1} of {self.plan.steps}"
        )

    def _loss(self, part: Sequence[Pair]) -> torch.Tensor:
        """Summed loss over the answers' tokens. Padding stands to the right, where causal attention never looks."""
        width = max(len(p.ids) for p in part)
        inputs = torch.full((len(part), width), self.pad)
        labels = torch.full((len(part), width), _IGNORED)
        for row, pair in enumerate(part):
            inputs[row, : len(pair.ids)] = torch.tensor(pair.ids)
            labels[row, pair.start - 1 : len(pair.ids) - 1] = torch.tensor(pair.ids[pair.start :])
        inputs, labels = inputs.to(self.device), labels.to(self.device)
        hidden = self.inner.model(input_ids=inputs, use_cache=False).last_hidden_state
        counted = labels != _IGNORED
        logits = self.inner.lm_head(hidden[counted])
        return torch.nn.functional.cross_entropy(logits.float(), labels[counted], reduction="sum")

    def _evaluate(self) -> None:
        """Loss per token on `choose`; the best weights so far are kept aside."""
        self.model.eval()
        with torch.inference_mode():
            total = 0.0
            for at in range(0, len(self.watched), self.fit.rows):
                total += float(self._loss(self.watched[at : at + self.fit.rows]))
        loss = total / max(1, sum(len(p.ids) - p.start for p in self.watched))
        self.losses.append(loss)
        if loss < self.best_loss or not self.best:
            self.best_loss = loss
            self.best = {name: w.detach().cpu().clone() for name, w in self._adapter_state().items()}
        recent = self.losses[-PATIENCE:]
        self.stopped_early = len(self.losses) > PATIENCE and min(recent) > self.best_loss

    def _adapter_state(self) -> Mapping[str, torch.Tensor]:
        state: Mapping[str, torch.Tensor] = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return state

    def _keep(self) -> None:
        """Write a checkpoint beside the last one and put it in its place whole; a kill leaves the old one or the new one."""
        place, fresh = self.checkpoints / f"step-{self.step}", self.checkpoints / "half"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        now = {name: w.detach().cpu().contiguous() for name, w in self._adapter_state().items()}
        save_file(now, fresh / "now.safetensors")
        if self.best:
            save_file(self.weights(), fresh / "best.safetensors")
        moments = {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, entry in self.optimiser.state_dict()["state"].items()
            for name, value in entry.items()
        }
        save_file(moments, fresh / "moments.safetensors")
        state = {"mark": self.mark, "step": self.step, "losses": self.losses}
        (fresh / _STATE).write_text(json.dumps(state), encoding="utf-8")
        shutil.rmtree(place, ignore_errors=True)
        fresh.rename(place)
        for old in self.checkpoints.glob("step-*"):
            if old != place:
                shutil.rmtree(old, ignore_errors=True)

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint of this very run."""
        found = sorted(self.checkpoints.glob("step-*"), key=lambda p: int(p.name[5:]), reverse=True)
        for place in found:
            try:
                state = json.loads((place / _STATE).read_text(encoding="utf-8"))
                if state["mark"] != self.mark:
                    continue
                now = load_file(place / "now.safetensors")
                moments = load_file(place / "moments.safetensors")
                best = load_file(place / "best.safetensors") if state["losses"] else {}
                step, losses = int(state["step"]), [float(x) for x in state["losses"]]
            except (OSError, ValueError, KeyError, TypeError):
                continue
            self._take(step, losses, now, moments, best)
            return

    def _take(
        self,
        step: int,
        losses: list[float],
        now: dict[str, torch.Tensor],
        moments: Mapping[str, torch.Tensor],
        best: dict[str, torch.Tensor],
    ) -> None:
        set_peft_model_state_dict(self.model, now)
        entries: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, value in moments.items():
            number, _, kind = name.partition(".")
            entries[int(number)][kind] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": dict(entries), "param_groups": groups})
        self.step, self.losses, self.best = step, losses, best
        if losses:
            self.best_loss = min(losses)
            recent = losses[-PATIENCE:]
            self.stopped_early = len(losses) > PATIENCE and min(recent) > self.best_loss
