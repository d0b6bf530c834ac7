"""The loop of a LoRA run: low-rank weights beside a pretrained model's own (Hu et al. 2021, arXiv 2106.09685), which stay as they are.

Owns the steps, the looks that tell the best weights, and early stopping; a run shared by several processes takes the same steps in each. A
run is the same for the same job, whatever the clock says, unless the machine is far slower than was reckoned; one that was killed goes on
from its last checkpoint to the same weights.
"""

from __future__ import annotations

import math
import random
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict

from shoal.agents.learning.lora_checkpoints import Checkpoints, RunState, newest, write_state
from shoal.agents.learning.lora_crew import Crew
from shoal.agents.learning.lora_job import LoraJob, LoraSettings, Pair
from shoal.agents.learning.training import TrainContext

#: of the time given, what a run that is far slower than reckoned may take
CLOCK_SLACK = 1.1
EVALUATIONS = 12
#: so many looks at `watched` without a better one end the run
PATIENCE = 3
_IGNORED = -100


def lora_config(settings: LoraSettings) -> LoraConfig:
    """PEFT's configuration: low-rank weights beside all linear layers but the output's."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )


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


class AnswerLoss(torch.nn.Module):
    """Summed loss over the tokens of answers; only of those, logits are computed. `inner`: a causal language model."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        hidden = self.inner.model(input_ids=inputs, use_cache=False).last_hidden_state
        counted = labels != _IGNORED
        logits = self.inner.lm_head(hidden[counted])
        return torch.nn.functional.cross_entropy(logits.float(), labels[counted], reduction="sum")


class LoraRun:
    """One process's part of a run over `base`, which it changes into a model with low-rank weights."""

    def __init__(
        self, base: Any, job: LoraJob, context: TrainContext, *, crew: Crew, checkpoints: Checkpoints
    ) -> None:
        self.job, self.context, self.crew, self.checkpoints = job, context, crew, checkpoints
        self.settings, self.plan, self.mark = job.settings, job.plan, job.mark
        self.device = next(base.parameters()).device
        torch.manual_seed(job.seed)
        self.adapter = lora_config(self.settings)
        base.config.use_cache = False
        if job.fit.checkpointing:
            _forget_activations(base)
            base.enable_input_require_grads()
        self.model = with_adapter(base, self.adapter, "default")
        # PEFT has a set there, whose order is another in each process
        self.adapter.target_modules = sorted(self.adapter.target_modules)
        self.loss = AnswerLoss(self.model.get_base_model())
        self.shared = crew.share(self.loss)
        self.trained = {n: w for n, w in self.model.named_parameters() if w.requires_grad}
        self.peak = self.settings.peak(int(base.config.hidden_size))
        self.optimiser = torch.optim.AdamW(
            list(self.trained.values()), lr=self.peak, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.step = 0
        #: the step that this process began with
        self.first = 0
        self.entered = (context.monotonic(), 0.0)
        self.started = self.entered[0]
        self.loaded_mb = 0.0
        self.cut = False
        self.stopped_early = False
        #: no step is left; a run that is resumed so takes none
        self.finished = False
        self.best_loss = math.inf
        self.best: dict[str, torch.Tensor] = {}
        self.losses: list[float] = []

    def go(self) -> None:
        """All steps of the plan, or until `watched` gains no more, or as many as the clock allows.

        Raises:
            KeyboardInterrupt: the run was stopped; a checkpoint of where it stood is kept.
        """
        self._resume()
        self.first = self.step
        self.entered = (self.context.monotonic(), self.step / self.plan.steps)
        batches = self._batches(self.step)
        done, told = self._standing()
        self.finished = self.finished or done >= 1.0
        while not self.finished:
            if told:
                self._keep()
                raise KeyboardInterrupt
            self._train(next(batches), done)
            self.step += 1
            before, (done, told) = done, self._standing()
            if int(done * EVALUATIONS) > int(before * EVALUATIONS):
                self._evaluate()
                self.finished = done >= 1.0 or self.stopped_early
                self._keep()
        if not self.best:
            self._evaluate()
            self._keep()

    def _standing(self) -> tuple[float, bool]:
        """(share of the run that is behind it, whether it is to stop), the same in each process of the crew."""
        done, told, cut = self.crew.agree(
            [self._done(), float(self.crew.rank == 0 and self.context.stopped()), float(self.cut)]
        )
        self.cut = bool(cut)
        return done, bool(told)

    def _done(self) -> float:
        """Share of the run that is behind it: of its steps, or of its time where it is far slower than reckoned."""
        entered, share = self.entered
        end = self.started + self.job.seconds * CLOCK_SLACK
        ticked = (self.context.monotonic() - entered) / max(1e-9, end - entered)
        by_steps = self.step / self.plan.steps
        if self.step == self.first and end > entered:
            return by_steps  # the clock has measured nothing yet
        by_clock = min(1.0, share + (1.0 - share) * ticked) if end > entered else 1.0
        self.cut = self.cut or by_clock > by_steps
        return max(by_clock, by_steps)

    def _batches(self, first: int) -> Iterator[list[Pair]]:
        """Batches of similar length, in an order that depends only on the seed; from step `first` on."""
        size = self.settings.batch
        pairs = self.job.pairs
        epoch, skip = divmod(first, self.plan.steps_per_epoch)
        while True:
            rng = random.Random(f"{self.job.seed}/{epoch}")
            order = list(range(len(pairs)))
            rng.shuffle(order)
            batches = []
            for at in range(0, len(order), size * 16):
                chunk = sorted(order[at : at + size * 16], key=lambda i: len(pairs[i].ids))
                batches += [chunk[n : n + size] for n in range(0, len(chunk), size)]
            rng.shuffle(batches)
            for batch in batches[skip:]:
                yield [pairs[i] for i in batch]
            epoch, skip = epoch + 1, 0

    def _mine(self, pairs: Sequence[Pair]) -> list[Sequence[Pair]]:
        """This process's part of some pairs, by as many at once as fit into memory. One empty part where there is none for it: in
        training all must take part."""
        mine = pairs[self.crew.rank :: self.crew.size]
        rows = self.job.fit.rows
        return [mine[at : at + rows] for at in range(0, len(mine), rows)] or [()]

    def _train(self, batch: Sequence[Pair], done: float) -> None:
        self.model.train()
        # dropout is drawn anew for each step, so that a resumed run draws what an undisturbed one would have
        torch.manual_seed((self.job.seed * 1_000_003 + self.step) * self.crew.size + self.crew.rank)
        warm = min(1.0, (self.step + 1) / max(1, min(20, self.plan.steps // 10)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.peak * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))
        self.optimiser.zero_grad(set_to_none=True)
        # the crew's gradients are averaged, and the batch's loss is a mean over all of its tokens
        counted = sum(len(p.ids) - p.start for p in batch) / self.crew.size
        *before, last = self._mine(batch)
        if before:
            with self.crew.apart(self.shared):
                for part in before:
                    (self.shared(*self._tensors(part)) / counted).backward()
        (self.shared(*self._tensors(last)) / counted).backward()
        torch.nn.utils.clip_grad_norm_(list(self.trained.values()), 1.0)
        self.optimiser.step()
        self.context.progress(
            min(0.99, self.step / self.plan.steps), f"step {self.step + 1} of {self.plan.steps}"
        )

    def _tensors(self, part: Sequence[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and labels, (rows, tokens). Padding stands to the right, where causal attention never looks."""
        width = max((len(p.ids) for p in part), default=1)
        inputs = torch.full((max(1, len(part)), width), self.job.pad)
        labels = torch.full((max(1, len(part)), width), _IGNORED)
        for row, pair in enumerate(part):
            inputs[row, : len(pair.ids)] = torch.tensor(pair.ids)
            labels[row, pair.start - 1 : len(pair.ids) - 1] = torch.tensor(pair.ids[pair.start :])
        return inputs.to(self.device), labels.to(self.device)

    def _evaluate(self) -> None:
        """Loss per token on `watched`; the best weights so far are kept aside."""
        self.model.eval()
        with torch.inference_mode():
            mine = sum(float(self.loss(*self._tensors(part))) for part in self._mine(self.job.watched))
        (total,) = self.crew.total([mine])
        loss = total / max(1, sum(len(p.ids) - p.start for p in self.job.watched))
        self.losses.append(loss)
        if loss < self.best_loss or not self.best:
            self.best_loss = loss
            self.best = self._weights()
        recent = self.losses[-PATIENCE:]
        self.stopped_early = len(self.losses) > PATIENCE and min(recent) > self.best_loss

    def _weights(self) -> dict[str, torch.Tensor]:
        state: Mapping[str, torch.Tensor] = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return {name: weight.detach().cpu().clone().contiguous() for name, weight in state.items()}

    def state(self) -> RunState:
        moments = {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, entry in self.optimiser.state_dict()["state"].items()
            for name, value in entry.items()
        }
        return RunState(
            mark=self.mark,
            step=self.step,
            losses=tuple(self.losses),
            now=self._weights(),
            best=self.best,
            moments=moments,
            adapter=self.adapter,
            cut=self.cut,
            stopped_early=self.stopped_early,
            finished=self.finished,
            loaded_mb=self.loaded_mb,
        )

    def _keep(self) -> None:
        self.checkpoints.put(self.step, lambda folder: write_state(folder, self.state()))

    def _resume(self) -> None:
        """Go on from the newest whole checkpoint of this very run."""
        state = newest(self.checkpoints, self.mark)
        if state is None:
            return
        set_peft_model_state_dict(self.model, dict(state.now))
        entries: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, value in state.moments.items():
            number, _, kind = name.partition(".")
            entries[int(number)][kind] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": dict(entries), "param_groups": groups})
        self.step, self.losses, self.best = state.step, list(state.losses), dict(state.best)
        self.best_loss, self.cut = state.best_loss, state.cut
        self.stopped_early, self.finished = state.stopped_early, state.finished
