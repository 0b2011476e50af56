"""`Engine`: runs a graph of problems; `Callback`: what it tells its observers.

Each is declared in terms of the other, so they share this file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from .._arguments import checked, from_one, from_zero, in_body, take, takes
from .._errors import GraphError, NonFiniteError, SettingsError
from .._graph.stream import Stream
from .clock import still
from .halt import Halt
from .hooks import observers_of, teller
from .loop import Loop
from .progress import check_phases
from .record import Logger, Record, loggers_of
from .resuming import Course, check_override, go_on
from .schedule import AbstractSchedule
from .state import load_state, save_state
from .stepper import Stepper
from .turns import have_turn, in_turn, refuse_inside

__all__ = ["Callback", "Engine"]


class Callback:
    """Hooks of `Engine.run`; override those you need, each does nothing by itself.

    A callback may read everything of the engine, change learning rates, and end the run by
    `engine.stop()`; it takes no steps. Metrics are keyed "problem/name".
    """

    def on_start(self, engine: Engine) -> None:
        """Before the first step."""

    def on_step(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After each step; the metrics are tensors on their devices, reading one synchronises."""

    def on_log(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """At each logging step, with numbers, words, and short lists of numbers.

        What dicts in metrics and signals hold is keyed "problem/name/key".
        """

    def on_epoch(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After each epoch, with the means of losses and users' metrics over it.

        Each update of a problem counts once, by the evaluation that it is made of: every round of a
        turn, of `Loops` and of `repeat=`, and every step of `Unrolled` (whose metrics are those of
        the first). They are keyed "problem/loss", "problem/name".
        """

    def on_validation(self, engine: Engine, metrics: dict[str, Any]) -> None:
        """After each call of the validation function, with what it returned."""

    def on_skip(self, engine: Engine, error: NonFiniteError) -> None:
        """After a step of which nothing was committed, if the engine goes on."""

    def on_between(self, engine: Engine) -> None:
        """After all other hooks of a step: here the states of engine and callbacks are whole."""

    def on_end(self, engine: Engine) -> None:
        """After the last step, also if an error ends the run, which is what is raised then."""

    def state_dict(self) -> dict[str, Any]:
        """What this has to know again where a run is resumed, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave, in the run that is resumed; before `on_start`."""


class _Recorder(Record, Callback):
    """The loggers of a run, as the last of its observers."""


class Engine(Stepper):
    """Schedules the updates of a graph of problems and computes every hypergradient.

    A step takes one batch from each stream, evaluates every problem and signal once, going up the
    list, pulls cotangents back through the look-aheads, going down, and commits all updates at its
    end: all, or none if anything is not finite.

    Engines in several threads take turns: a step, with what the callbacks of `run` do after it, is
    taken while no other engine works, for torch's generators belong to the whole process. So each
    computes what it computes alone, unless threads of your own draw random numbers meanwhile. A
    callback must not wait for another thread's engine; a thread that waits for long says for whom.

    Args:
        problems: problems and signals, from the lowest level to the highest: order is the nesting.
            A `Game` stands for its players.
        hypergrad: the method of problems that name none.
        schedule: the order of the updates.
        device: where batches are moved to, and whose generator is seeded; modules are moved by you.
        seed: of everything random inside steps and loaders. The global generators are not used.
        skip_nonfinite: how many steps in a row may be skipped because something in them was not
            finite; one more raises `NonFiniteError`. A skipped step commits nothing.
        compile: call objectives and signals compiled where they are differentiated once; True, or
            options of `torch.compile` by name. The first step, which is measured, runs plain.
        undo: copy parameters, states of optimizers and buffers before a step commits, so that all
            is put back if anything raises or is not finite; `plan()` says how much that is. False
            saves the memory: what has been committed when a step fails then stays, and new values
            and states that are not finite are not noticed.
        precision: "bf16" or "fp16" has every objective and signal that names no other computed
            under `torch.autocast`; parameters, optimizers, gradients and products stay as they
            are, and differences are taken in float32. With fp16 every gradient is computed from a
            multiple of itself, the `loss_scale`: a step that is not finite is undone, told to
            `on_skip`, and halves it, and counts as one of `skip_nonfinite` once it is 1.
        parts: take each batch in so many, with the graph of one at a time: the same numbers in
            less memory, where nothing is drawn and no BatchNorm takes a part's statistics. What is
            no mean over samples, or has no row for each, says so: see `problem` and `signal`.
        ranks: the processes that take the steps together, each with its own samples of every batch
            (`mlopt.distributed.split`): N ranks give what one gives with N times as many parts. By
            default the default process group of torch.distributed, if there is one; a group; or
            False, for none. All make the same engine, and call the same verbs of it. Variables
            begin as the first rank's, or are sharded over all of them by `fully_shard`. Loggers,
            progress and checkpoints are the first rank's; a rank that fails ends all, by a
            `RankError`.
        places: where variables live, {W: 0, V: (1, 2)}, on a rank or several, or {W: "cuda:1"}.
            What is minimised over one is evaluated there, and what it reads travels there. Loaders
            then give all ranks whole batches. Others live on all ranks, or where they are.

    Raises:
        GraphError: the list is not a graph that can be run; the message says what to do.

    Examples:
        >>> import torch, mlopt
        >>> W = mlopt.Variable(torch.nn.Parameter(torch.tensor(2.0)), "w")
        >>> @mlopt.problem(over=W, optimizer=torch.optim.SGD(W.parameters(), lr=0.5))
        ... def square(w):
        ...     return w**2 / 2
        >>> mlopt.Engine([square]).run(steps=1, progress=False)
        >>> W.value.item()
        1.0
    """

    _stopping = False
    _course = Course((), (0, 0), None, _Recorder([]))

    @checked(
        SettingsError,
        steps=from_zero,
        epochs=from_zero,
        validate_every=from_one,
        log_every=from_one,
        callbacks=in_body,
        loggers=in_body,
    )
    def run(
        self,
        *,
        steps: int | None = None,
        epochs: int | None = None,
        epoch: Any = None,
        validate: Callable[[], Mapping[str, Any] | None] | None = None,
        validate_every: int = 1,
        callbacks: Iterable[Callback] = (),
        loggers: Iterable[Logger] = (),
        log_every: int = 50,
        progress: bool = True,
        phases: Mapping[str, str] | None = None,
        resume: str | Path | None = None,
        override: Collection[str] = (),
    ) -> None:
        """Take steps.

        Args:
            steps: how many; or
            epochs: how many passes of the stream that counts epochs.
            epoch: that stream (or its loader); by default that of the first problem which has
                one and no start to wait for.
            validate: called after every `validate_every` epochs, and after the last step; returns
                a dict of metrics.
            validate_every: in epochs; without data to count them by, only the last step is left.
            callbacks: observers.
            loggers: of `mlopt.loggers`, or objects with methods `log(row)` and `close(status)`:
                they get a row for each logging step, epoch and validation, and are closed when the
                run ends. One that fails is warned of once and left out.
            log_every: steps between logging steps, on which metrics become numbers.
            progress: show a progress bar, in a terminal or a notebook.
            phases: what the bar calls a part of the run, by the label of the problem with whose
                start it begins: {"generator": "generator alone", "architecture": "search"}.
            resume: a folder of checkpoints, see `Checkpoint`: the run goes on from the newest one,
                and steps and epochs count from where it first began. In an empty folder it begins.
            override: what may be another than in the checkpoint: "graph" (precisions among it),
                "objectives" (the text of their functions), "optimizers", "data", "seed", "parts".
                Devices and lengths always may.

        Raises:
            SettingsError: not exactly one of steps and epochs, no stream to count epochs by, an
                option that is not what it must be, a callback whose methods named on_ are no hooks
                or take other arguments, a logger without its methods, a phase of no problem, a run
                inside a run, or a checkpoint of another run.
            NonFiniteError: as `step`.
            Interrupted: SIGINT (Ctrl-C) or SIGTERM came while the run was in the main thread, and
                the handler was Python's own. The step was finished, callbacks were told of it and
                of the end; or, if a worker of a loader was killed as well, nothing of it is left. A
                second signal ends at once.
        """
        have_turn("run()", refuse_inside, self, "run()")
        if self._running:
            raise SettingsError("run(): called inside a run of this engine; let that end first.")
        if (steps is None) == (epochs is None):
            raise SettingsError("run: give either steps= or epochs=.")
        stream = self._epoch_stream if epoch is None else self._stream(epoch)
        if epochs is not None and stream is None:
            raise SettingsError("run: epochs= needs data to count them by; give steps=.")
        if validate is not None and validate_every > 1 and stream is None:
            raise SettingsError(
                f"run: validate_every={validate_every} counts epochs, and nothing here has data to "
                "count them by. Give callbacks=[mlopt.Validation(f, steps=n)]."
            )
        if validate is not None and not takes(validate):
            raise SettingsError(
                "run: validate= is called without arguments, and this function asks for some. Give "
                "lambda: validate(engine)."
            )
        given = loggers_of(loggers)
        record = _Recorder(given if self._agreement.first else [])
        watching = observers_of(callbacks, Callback)
        observers = (*watching, record) if record.loggers else watching
        named = check_phases(self.graph, phases or {})
        allowed = check_override(override)
        if stream is not None and epochs:
            self._check_drawn(stream)
        folder = None if resume is None else Path(resume)
        began, self._validated = None, self.steps  # nothing has been changed since
        if folder is not None:
            with self._agreement.together():
                began = go_on(self, self.load_state_dict, watching, record, folder, allowed)
        if epoch is not None and stream is not None:
            self._epoch_stream, self.epoch = stream, self._feed.passes[stream]
        began = began or (self.steps, self.epoch)

        halt = Halt(self)
        options = validate, validate_every, log_every, record, named
        progress = progress and self._agreement.first
        loop = Loop(self, teller(self, observers), lambda: self._stopping, halt, *options)
        try:
            self._running, self._stopping, self._saved = True, False, None
            self._course = Course(observers, began, folder, record)
            with halt:
                try:
                    with self._agreement.together():
                        loop.run(began, steps, epochs, stream, progress)
                finally:
                    record.close(loop.status)
        finally:
            self._running = False
            halt.close()

    def _stream(self, epoch: Any) -> Stream:
        """The stream that was named to count epochs."""
        streams = self._feed.streams
        if isinstance(epoch, Stream) or any(s.loader is epoch for s in streams):
            found = Stream.of(epoch)
            if found in streams:
                return found
        raise SettingsError(
            "run: epoch= names a stream that no problem or signal reads, by a "
            f"{type(epoch).__name__}; give a loader, or Stream, that is one's data=."
        )

    def _check_drawn(self, stream: Stream) -> None:
        if still(self.graph, stream, self._feed.passes[stream]):
            waiting = " and ".join(n.name for n in self.graph.nodes if stream in n.streams)
            raise SettingsError(
                f"run: epochs would be counted by the data of {waiting}, from which nothing is "
                "drawn: it waits for its start, or has no optimizer and no reader. Give epoch= the "
                "loader of another problem."
            )

    @in_turn("state_dict()")
    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on, of this engine and what it was made of.

        Variables and buffers, optimizers and schedulers, memories of signals, counters, where each
        loader stands and in which pass, the means of this epoch, and the random numbers of torch,
        NumPy and Python that come next. An engine that is made in the same way goes on from it to
        the bit, in another process, too.

        Batches are not saved: a loader is gone through again to where it stood, with the same
        random numbers. Nothing of the state is shared with the engine, and
        `torch.load(weights_only=True)` reads it. To be called between steps, in callbacks too.

        Returns:
            Tensors and plain values, for `load_state_dict`.

        Raises:
            SettingsError: an optimizer or scheduler holds something that cannot be read back so,
                or has no `state_dict()`.
        """
        return save_state(self)

    @in_turn("load_state_dict()")
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where another engine stood.

        Args:
            state: what `state_dict` gave, of an engine that was made of the same graph, optimizers
                and loaders.

        Raises:
            SettingsError: it is not the state of such an engine, and nothing has changed; the
                message says what differs.
        """
        load_state(self, state)

    @property
    def schedule(self) -> AbstractSchedule:
        """In which order problems are updated, as the engine was made with."""
        return self._schedule

    @property
    def undo(self) -> bool:
        """Whether a step that fails is undone, as the engine was made with."""
        return self._undo

    @property
    def seed(self) -> int:
        """Of everything random inside steps and loaders, as the engine was made with."""
        return self._seed

    @property
    def skip_nonfinite(self) -> int:
        """How many steps in a row may be skipped; it can be set between steps."""
        return self._skips

    @skip_nonfinite.setter
    def skip_nonfinite(self, steps: int) -> None:
        self._skips = take(GraphError, "Engine", "skip_nonfinite", steps, int, from_zero)

    @property
    def loss_scale(self) -> float | None:
        """What backward passes begin with, where anything is computed in fp16; else None."""
        return self._failures.size

    def stop(self) -> None:
        """End the run after this step; for callbacks, early stopping among them."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called in this run."""
        return self._stopping
