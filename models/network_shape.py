"""The late-fusion network as numbers: which weights it has, in which order, and the log hazard it gives.

One encoder per layer of the study (clinical, rna, ...); each gives its own log hazard, and the model's is their sum
over the layers that a patient has (late fusion). A layer that is missing adds nothing, which is what a patient at the
means adds, so one network serves every pattern of missing layers. An encoder is

    f_l(x) = u'x + v' tanh(W x + b) - v' tanh(b)

with a linear path u, so that a network without curvature is the linear model of `models.hazard`. With early fusion
there is one encoder for all layers together.

Scoring needs no torch; `models.network` trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.step import Context, Floats
from schemas.cohort import Cohort
from schemas.dictionary import CLINICAL

_EVERYTHING = "all layers"


@dataclass(frozen=True)
class Encoder:
    """One encoder.

    Attributes:
        name: Its layer.
        columns: (d,) its columns of the model's matrix.
        hidden: h, width of the hidden layer.
    """

    name: str
    columns: NDArray[np.intp]
    hidden: int

    @property
    def n_weights(self) -> int:
        """How many weights it has: u (d), v (h), b (h), W (h, d)."""
        d, h = self.columns.size, self.hidden
        return d + h + h + h * d

    def split(self, weights: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return u, v, b and W of its (n_weights,) part of the weights."""
        d, h = self.columns.size, self.hidden
        u, v, b = weights[:d], weights[d : d + h], weights[d + h : d + 2 * h]
        return u, v, b, weights[d + 2 * h :].reshape(h, d)


@dataclass(frozen=True)
class Shape:
    """The whole network.

    Attributes:
        encoders: In the order of their weights.
    """

    encoders: tuple[Encoder, ...]

    @staticmethod
    def of(context: Context) -> Shape:
        """Return the shape that a plan's step states in its settings `network`."""
        settings: Mapping[str, Any] = context.settings["network"]
        names = [column.layer for column in context.design]
        wide = [layer.name for layer in context.layers]
        group = [name if name in wide else CLINICAL for name in names]
        if settings["fusion"] == "early":
            group = [_EVERYTHING] * len(names)
        columns = {name: np.flatnonzero(np.array(group) == name) for name in dict.fromkeys(group)}
        return Shape(tuple(Encoder(name, index, int(settings["hidden"])) for name, index in columns.items()))

    @property
    def n_weights(self) -> int:
        """P, the number of weights."""
        return sum(encoder.n_weights for encoder in self.encoders)

    def parts(self, weights: Floats) -> list[Floats]:
        """Return each encoder's part of the (P,) weights."""
        ends = list(accumulate(encoder.n_weights for encoder in self.encoders))
        return np.split(weights, ends[:-1])

    def first_weights(self, seed: int) -> Floats:
        """Return the (P,) weights of the start: log hazard 0 everywhere, W and b drawn at random.

        Args:
            seed: From the plan, so that every run of it starts alike.
        """
        rng = np.random.default_rng(seed)
        drawn: list[Floats] = []
        for encoder in self.encoders:
            d, h = encoder.columns.size, encoder.hidden
            zeros = np.zeros(d + h)
            drawn.append(np.concatenate((zeros, np.zeros(h), rng.standard_normal(h * d) / np.sqrt(max(d, 1)))))
        return np.concatenate(drawn)

    def present(self, cohort: Cohort, wide: Sequence[str]) -> Floats:
        """Return (n, n_encoders), 1 where the patient has the encoder's layer, else 0.

        Args:
            cohort: Of one site.
            wide: Names of the study's wide layers; the clinical layer is always there.
        """
        columns = [
            cohort.has_layer(encoder.name).astype(np.float64) if encoder.name in wide else np.ones(cohort.n_patients)
            for encoder in self.encoders
        ]
        return np.column_stack(columns)

    def log_hazard(self, weights: Floats, x: Floats, present: Floats) -> Floats:
        """Return the (n,) log hazards, relative to a patient at the means.

        Args:
            weights: (P,).
            x: (n, p) the model's matrix.
            present: (n, n_encoders), see `present`.
        """
        total = np.zeros(x.shape[0])
        for j, (encoder, own) in enumerate(zip(self.encoders, self.parts(weights), strict=True)):
            u, v, b, w = encoder.split(own)
            mine = x[:, encoder.columns]
            total += present[:, j] * (mine @ u + np.tanh(mine @ w.T + b) @ v - np.tanh(b) @ v)
        return total
